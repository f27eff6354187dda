//! Runs other people's benchmark programs, a server and a client on a CPU each, and reads their tables.

use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const TO_LISTEN: Duration = Duration::from_secs(20);
const TO_FINISH: Duration = Duration::from_secs(90);
const TICK: Duration = Duration::from_millis(5);

/// Why a tool gave no figure.
#[derive(Debug)]
pub struct Failure(pub String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure(error.to_string())
    }
}

/// What perftest prints in MB and MB/sec is 2^20 bytes; ucx_perftest's too.
pub(crate) const MEGABYTE: f64 = 1048576.0;

/// A bandwidth test's last line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Throughput {
    /// In GB/s, 10^9 bytes.
    pub bandwidth: f64,
    /// In millions per second.
    pub messages: f64,
}

/// Where and how the tools run.
pub struct Tools {
    pub cpus: [usize; 2],
    /// The `gaudi-soft` program.
    pub soft: PathBuf,
    /// perftest's `-d`, if a certain device is wanted.
    pub device: Option<String>,
}

impl Tools {
    /// Median one-way latency of `ib_send_lat` or `ib_write_lat`, in nanoseconds.
    pub fn perftest_latency(
        &self,
        tool: &str,
        size: usize,
        iterations: u64,
    ) -> Result<f64, Failure> {
        let output = self.perftest(tool, size, iterations)?;
        latency_row(&output, size)
            .map(|us| us * 1000.0)
            .ok_or_else(|| no_table(&output))
    }

    /// What `ib_send_bw` or `ib_write_bw` reaches.
    pub fn perftest_throughput(
        &self,
        tool: &str,
        size: usize,
        iterations: u64,
    ) -> Result<Throughput, Failure> {
        let output = self.perftest(tool, size, iterations)?;
        throughput_row(&output, size).ok_or_else(|| no_table(&output))
    }

    /// Median one-way latency of UCX over shared memory, in nanoseconds.
    pub fn ucx_latency(&self, size: usize, iterations: u64) -> Result<f64, Failure> {
        let output = self.ucx("tag_lat", size, iterations)?;
        ucx_row(&output)
            .map(|row| row[1] * 1000.0)
            .ok_or_else(|| no_table(&output))
    }

    /// UCX tag messages over shared memory.
    pub fn ucx_throughput(&self, size: usize, iterations: u64) -> Result<Throughput, Failure> {
        let output = self.ucx("tag_bw", size, iterations)?;
        let row = ucx_row(&output).ok_or_else(|| no_table(&output))?;
        Ok(Throughput {
            bandwidth: row[5] * MEGABYTE / 1e9,
            messages: row[7] / 1e6,
        })
    }

    fn perftest(&self, tool: &str, size: usize, iterations: u64) -> Result<String, Failure> {
        let [server, client] = self.perftest_pair(tool, size, iterations, &[])?;
        serve(server.0, client.0, server.1)
    }

    /// perftest's server and client, each with the port that the server will listen on.
    pub(crate) fn perftest_pair(
        &self,
        tool: &str,
        size: usize,
        iterations: u64,
        more: &[&str],
    ) -> Result<[(Command, u16); 2], Failure> {
        let port = free_port()?;
        let command = |cpu: usize| {
            let mut command = pinned(cpu, &self.soft.to_string_lossy());
            command
                .args(["run", "--", tool, "-F", "-p"])
                .arg(port.to_string());
            command
                .arg("-s")
                .arg(size.to_string())
                .arg("-n")
                .arg(iterations.to_string())
                .args(more);
            if let Some(device) = &self.device {
                command.arg("-d").arg(device);
            }
            command
        };
        let mut client = command(self.cpus[1]);
        client.arg("127.0.0.1");
        Ok([(command(self.cpus[0]), port), (client, port)])
    }

    fn ucx(&self, test: &str, size: usize, iterations: u64) -> Result<String, Failure> {
        self.ucx_with(test, size, iterations, &[])
    }

    /// A test of ucx_perftest over shared memory, with more options.
    pub(crate) fn ucx_with(
        &self,
        test: &str,
        size: usize,
        iterations: u64,
        more: &[&str],
    ) -> Result<String, Failure> {
        let port = free_port()?.to_string();
        let command = |cpu: usize| {
            let mut command = pinned(cpu, "ucx_perftest");
            command.env("UCX_TLS", "posix,cma,self").args(["-p", &port]);
            command
        };
        let mut client = command(self.cpus[1]);
        client.args([
            "127.0.0.1",
            "-f",
            "-t",
            test,
            "-s",
            &size.to_string(),
            "-n",
            &iterations.to_string(),
        ]);
        let warm_up = (iterations / 10).to_string();
        client.args(["-w", &warm_up]).args(more);
        serve(command(self.cpus[0]), client, port.parse().unwrap_or(0))
    }
}

pub(crate) fn pinned(cpu: usize, program: &str) -> Command {
    let mut command = Command::new("taskset");
    command.arg("-c").arg(cpu.to_string()).arg(program);
    command
}

pub(crate) fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Starts the server, then the client once the server listens; the client's output if both succeed.
pub(crate) fn serve(server: Command, client: Command, port: u16) -> Result<String, Failure> {
    serve_watched(server, client, port, |_| ())
}

/// The same; `look` is called now and then with the server's process group while both run.
pub(crate) fn serve_watched(
    server: Command,
    client: Command,
    port: u16,
    mut look: impl FnMut(u32),
) -> Result<String, Failure> {
    let mut server = Running::start(server)?;
    let since = Instant::now();
    while !listens(port) {
        if server.child.try_wait()?.is_some() {
            return server
                .finish(since + TO_LISTEN, "server")
                .map(|_| String::new())
                .and_then(|_| Err(Failure("the server ended before it listened".into())));
        }
        if since.elapsed() > TO_LISTEN {
            return Err(Failure(format!(
                "the server did not listen within {TO_LISTEN:?}"
            )));
        }
        thread::sleep(TICK);
    }
    look(server.child.id());
    let client = Running::start(client)?;
    let until = Instant::now() + TO_FINISH;
    // The server's word first: when it fails, the client's complaint only says that it went away.
    let group = server.child.id();
    let output = client.finish_watched(until, "client", || look(group));
    let allowed = if output.is_ok() {
        until
    } else {
        Instant::now() + Duration::from_secs(1)
    };
    match (server.finish(allowed, "server"), output) {
        (Ok(_), output) => output,
        (Err(failure), Ok(_)) => Err(failure),
        (Err(server), Err(client)) => Err(Failure(format!("{client}; {server}"))),
    }
}

/// A started program, killed with all its children if nobody waits for it.
pub(crate) struct Running {
    child: Child,
    output: Option<[JoinHandle<String>; 2]>,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> io::Result<Running> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child = command.spawn()?;
        let stdout = child
            .stdout
            .take()
            .map(|pipe| thread::spawn(|| read_all(pipe)));
        let stderr = child
            .stderr
            .take()
            .map(|pipe| thread::spawn(|| read_all(pipe)));
        Ok(Running {
            child,
            output: stdout.zip(stderr).map(|(out, err)| [out, err]),
        })
    }

    pub(crate) fn finish(self, until: Instant, who: &str) -> Result<String, Failure> {
        self.finish_watched(until, who, || ())
    }

    fn finish_watched(
        mut self,
        until: Instant,
        who: &str,
        mut look: impl FnMut(),
    ) -> Result<String, Failure> {
        let status = loop {
            look();
            if let Some(status) = self.child.try_wait()? {
                break Some(status);
            }
            if Instant::now() > until {
                break None;
            }
            thread::sleep(TICK);
        };
        self.kill_group();
        let [stdout, stderr] = self.output.take().map_or_else(Default::default, |threads| {
            threads.map(|thread| thread.join().unwrap_or_default())
        });
        match status {
            Some(status) if status.success() => Ok(stdout),
            Some(status) => Err(complaint(who, status, &stdout, &stderr)),
            None => Err(Failure(format!(
                "the {who} did not finish; {}",
                last_line(&stdout, &stderr)
            ))),
        }
    }

    fn kill_group(&mut self) {
        if let Some(group) = rustix::process::Pid::from_raw(self.child.id() as i32) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.output.is_some() {
            self.kill_group();
            let _ = self.child.wait();
        }
    }
}

fn read_all(mut pipe: impl Read) -> String {
    let mut bytes = Vec::new();
    let _ = pipe.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn complaint(who: &str, status: ExitStatus, stdout: &str, stderr: &str) -> Failure {
    Failure(format!(
        "the {who} ended with {status}: {}",
        last_line(stdout, stderr)
    ))
}

fn last_line(stdout: &str, stderr: &str) -> String {
    let line = |text: &str| {
        text.lines()
            .rev()
            .map(str::trim)
            .find(|line| line.len() > 3)
            .map(str::to_owned)
    };
    line(stderr)
        .or_else(|| line(stdout))
        .unwrap_or_else(|| "it said nothing".into())
}

pub(crate) fn no_table(output: &str) -> Failure {
    Failure(format!("no table in the output; {}", last_line(output, "")))
}

/// Whether something listens on the TCP port; asking by a connection would be taken for the client.
fn listens(port: u16) -> bool {
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok())
        .any(|table| {
            table.lines().any(|line| {
                let mut fields = line.split_whitespace();
                let local = fields.nth(1).unwrap_or_default();
                // State 0A is LISTEN, see net/tcp_states.h.
                fields.nth(1) == Some("0A") && local.ends_with(&format!(":{port:04X}"))
            })
        })
}

/// The numbers of the table's row for `size`: bytes, iterations, then what the tool reports.
fn row(output: &str, size: usize, columns: usize) -> Option<Vec<f64>> {
    output.lines().rev().find_map(|line| {
        let numbers: Option<Vec<f64>> = line
            .split_whitespace()
            .map(|word| word.parse().ok())
            .collect();
        numbers.filter(|numbers| numbers.len() >= columns && numbers[0] == size as f64)
    })
}

/// `t_typical` in microseconds: bytes, iterations, min, max, typical, average, stdev, 99 %, 99.9 %.
pub(crate) fn latency_row(output: &str, size: usize) -> Option<f64> {
    row(output, size, 9).map(|row| row[4])
}

/// Bytes, iterations, peak, average in MB/s, Mpps.
pub(crate) fn throughput_row(output: &str, size: usize) -> Option<Throughput> {
    let row = row(output, size, 5)?;
    Some(Throughput {
        bandwidth: row[3] * MEGABYTE / 1e9,
        messages: row[4],
    })
}

/// ucx_perftest's final line without its label: iterations; median, average, overall time; average,
/// overall MB/s; average, overall rate.
pub(crate) fn ucx_row(output: &str) -> Option<Vec<f64>> {
    let line = output
        .lines()
        .rev()
        .map(|line| line.trim_start_matches("Final:").trim());
    let numbers = |line: &str| {
        line.split_whitespace()
            .map(|word| word.parse().ok())
            .collect::<Option<Vec<f64>>>()
    };
    line.filter_map(numbers).find(|numbers| numbers.len() == 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables() {
        let latency = "\
 #bytes #iterations    t_min[usec]    t_max[usec]  t_typical[usec]    t_avg[usec]    t_stdev[usec]\n\
 64      1000          0.64           4.71         0.68     \t       0.69        \t0.08   \t\t0.80    \t\t4.71   \n\
---------------------------------------------------------------------------------------\n";
        assert_eq!(latency_row(latency, 64), Some(0.68));
        assert_eq!(latency_row(latency, 2), None);
        let bandwidth = "\
 #bytes     #iterations    BW peak[MB/sec]    BW average[MB/sec]   MsgRate[Mpps]\n\
 65536      1000             2745.67            2000.00\t\t   0.043922\n";
        let throughput = throughput_row(bandwidth, 65536).unwrap();
        assert_eq!(throughput.messages, 0.043922);
        assert!((throughput.bandwidth - 2.097152).abs() < 1e-9);
        let ucx = "Final:                200000      0.190     0.210     0.220      291.32     291.32     4772994     4772995\n";
        assert_eq!(ucx_row(ucx).unwrap()[1], 0.19);
        assert_eq!(ucx_row(&ucx.replace("Final:", "")).unwrap()[7], 4772995.0);
        assert_eq!(ucx_row("nothing\n\n"), None);
    }

    #[test]
    fn failing_tools_say_why() {
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command
        };
        let port = free_port().unwrap();
        let failure = serve(shell("echo broken >&2; exit 3"), shell("exit 0"), port)
            .unwrap_err()
            .0;
        assert!(
            failure.contains("broken") && failure.contains("server"),
            "{failure}"
        );
    }

    #[test]
    fn listeners_are_seen() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(listens(port));
        drop(listener);
        assert!(!listens(port));
    }
}
