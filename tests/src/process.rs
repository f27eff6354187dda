//! Child processes with a watchdog: they end, or they are killed by their process id and their output is shown.

use std::fs::File;
use std::io::{Read, Seek};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A child whose output goes to files, so that it never waits for a reader.
pub struct Running {
    child: Child,
    stdout: File,
    stderr: File,
    name: String,
    ended: Option<ExitStatus>,
}

/// What became of a child.
#[derive(Debug)]
pub struct Finished {
    /// `None`: the watchdog killed it.
    pub status: Option<ExitStatus>,
    pub stdout: String,
    pub stderr: String,
    pub name: String,
}

/// Starts a child in a process group of its own.
pub fn spawn(mut command: Command) -> Running {
    let file = || tempfile::tempfile().expect("a temporary file");
    let (stdout, stderr) = (file(), file());
    let name = format!(
        "{} {}",
        command.get_program().to_string_lossy(),
        command
            .get_args()
            .map(|a| a.to_string_lossy())
            .collect::<Vec<_>>()
            .join(" ")
    );
    let child = command
        .stdin(Stdio::null())
        .stdout(stdout.try_clone().expect("a descriptor"))
        .stderr(stderr.try_clone().expect("a descriptor"))
        .process_group(0)
        .spawn()
        .unwrap_or_else(|e| panic!("{name}: {e}"));
    Running {
        child,
        stdout,
        stderr,
        name,
        ended: None,
    }
}

impl Running {
    /// gaudi-soft becomes the program, so this is the program's own id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        if self.ended.is_none() {
            let pid = rustix::process::Pid::from_child(&self.child);
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    pub fn is_over(&mut self) -> bool {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("own child");
        }
        self.ended.is_some()
    }

    /// What it has written to standard output so far.
    pub fn so_far(&mut self) -> String {
        text(&mut self.stdout)
    }

    /// Waits until it ends or the time is over, then kills it with all that it started.
    pub fn finish(mut self, limit: Duration) -> Finished {
        let deadline = Instant::now() + limit;
        while !self.is_over() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        let status = self.ended;
        self.kill();
        Finished {
            status,
            stdout: text(&mut self.stdout),
            stderr: text(&mut self.stderr),
            name: std::mem::take(&mut self.name),
        }
    }

    fn kill(&mut self) {
        if self.ended.is_none() {
            let group = rustix::process::Pid::from_child(&self.child);
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            self.ended = self.child.wait().ok();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

fn text(file: &mut File) -> String {
    let mut bytes = Vec::new();
    let _ = file.rewind();
    let _ = file.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Finished {
    pub fn success(&self) -> bool {
        self.status.is_some_and(|s| s.success())
    }

    /// `Err` with everything it said unless it ended with 0.
    pub fn expect_success(&self) -> Result<(), String> {
        if self.success() {
            Ok(())
        } else {
            Err(self.to_string())
        }
    }
}

impl std::fmt::Display for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.status {
            Some(status) => writeln!(f, "{}: {status}", self.name)?,
            None => writeln!(f, "{}: did not end in time", self.name)?,
        }
        for (what, text) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !text.trim().is_empty() {
                writeln!(f, "  {what}:\n{}", shortened(text))?;
            }
        }
        Ok(())
    }
}

/// The first and the last part of a long text.
fn shortened(text: &str) -> String {
    const PART: usize = 4000;
    let lines: Vec<&str> = text.lines().collect();
    let head: usize = lines
        .iter()
        .scan(0, |sum, l| {
            *sum += l.len();
            Some(*sum)
        })
        .take_while(|sum| *sum < PART)
        .count();
    let tail: usize = lines
        .iter()
        .rev()
        .scan(0, |sum, l| {
            *sum += l.len();
            Some(*sum)
        })
        .take_while(|sum| *sum < PART)
        .count();
    if head + tail >= lines.len() {
        return text.to_string();
    }
    let left_out = lines.len() - head - tail;
    format!(
        "{}\n[{left_out} lines left out]\n{}",
        lines[..head].join("\n"),
        lines[lines.len() - tail..].join("\n")
    )
}

/// A server and a client as perftest and ibverbs-utils have them: `make(port)` gives both commands. The port is free when it is
/// chosen; should somebody take it before the server does, another one is tried.
pub fn run_pair(
    make: impl Fn(u16) -> (Command, Command),
    limit: Duration,
) -> Result<(Finished, Finished), String> {
    for _ in 0..4 {
        let (server, client) = match start_pair(&make) {
            Ok(pair) => pair,
            Err(server) if port_was_taken(&server) => continue,
            Err(server) => return Err(format!("the server ended before it listened\n{server}")),
        };
        let client = client.finish(limit);
        // A server whose client failed may wait for ever.
        let server = server.finish(if client.success() {
            limit
        } else {
            Duration::from_secs(3)
        });
        if port_was_taken(&server) {
            continue;
        }
        if client.success() && server.success() {
            return Ok((server, client));
        }
        return Err(format!("client: {client}server: {server}"));
    }
    Err("no free TCP port".to_string())
}

/// Both sides running, the client started when the server listened.
pub fn start_pair(
    make: &impl Fn(u16) -> (Command, Command),
) -> Result<(Running, Running), Finished> {
    let port = free_port();
    let (server, client) = make(port);
    let mut server = spawn(server);
    let deadline = Instant::now() + Duration::from_secs(20);
    while !listening(server.pid(), port) {
        if server.is_over() || Instant::now() > deadline {
            return Err(server.finish(Duration::ZERO));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok((server, spawn(client)))
}

fn port_was_taken(server: &Finished) -> bool {
    let said = format!("{}{}", server.stdout, server.stderr);
    said.contains("Address already in use") || said.contains("ouldn't listen")
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("loopback");
    listener.local_addr().expect("bound").port()
}

/// Reads the kernel's table instead of connecting, which would be the server's one client. proc(5), /proc/net/tcp: state 0A is LISTEN.
/// The table is that of the process's network namespace.
fn listening(pid: u32, port: u16) -> bool {
    let end = format!(":{port:04X}");
    ["tcp", "tcp6"].iter().any(|table| {
        std::fs::read_to_string(format!("/proc/{pid}/net/{table}"))
            .unwrap_or_default()
            .lines()
            .any(|line| {
                let mut words = line.split_whitespace().skip(1);
                words.next().is_some_and(|local| local.ends_with(&end))
                    && words.nth(1) == Some("0A")
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_and_status_are_kept() {
        let done = spawn(sh("echo out; echo err >&2; exit 3")).finish(Duration::from_secs(10));
        assert_eq!(done.status.and_then(|s| s.code()), Some(3));
        assert_eq!(
            (done.stdout.as_str(), done.stderr.as_str()),
            ("out\n", "err\n")
        );
        assert!(done.expect_success().is_err());
    }

    #[test]
    fn long_output_keeps_both_ends() {
        let long: String = (0..2000).map(|i| format!("line {i}\n")).collect();
        let short = shortened(&long);
        assert!(
            short.starts_with("line 0\n") && short.ends_with("line 1999") && short.len() < 10_000
        );
        assert_eq!(shortened("a\nb\n"), "a\nb\n");
    }

    #[test]
    fn the_watchdog_kills_children_of_children() {
        let started = Instant::now();
        let done = spawn(sh("sleep 1000 & echo $!; wait")).finish(Duration::from_millis(300));
        assert!(done.status.is_none() && started.elapsed() < Duration::from_secs(10));
        let grandchild: i32 = done.stdout.trim().parse().unwrap();
        // Zombies wait for their new parent; nothing else may be left.
        let stat = std::fs::read_to_string(format!("/proc/{grandchild}/stat")).unwrap_or_default();
        assert!(stat.is_empty() || stat.contains(") Z"), "{stat}");
    }

    #[test]
    fn a_listener_is_seen_without_disturbing_it() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let own = std::process::id();
        assert!(listening(own, port));
        drop(listener);
        assert!(!listening(own, port));
    }
}
