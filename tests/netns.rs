//! Ports on network interfaces: two network namespaces joined by veth, a fabric in each, nothing shared but the wire. Needs root.

use gaudi_tests::{
    End, Fabric, Failures, Finished, compile, outcomes, ran, rows, run_pair, spawn, unpack,
};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(20);

/// Two namespaces that go away with it.
struct Spaces {
    names: [String; 2],
    fabrics: [Fabric; 2],
}

const IPV4: [&str; 2] = ["10.77.0.1", "10.77.0.2"];
const IPV6: [&str; 2] = ["fd77::1", "fd77::2"];
const NETDEV: [&str; 2] = ["gv0", "gv1"];

fn sh(line: &str) -> Result<String, String> {
    let mut command = Command::new("sh");
    command.args(["-c", line]);
    let done = spawn(command).finish(LIMIT);
    done.expect_success().map(|()| done.stdout.clone())
}

impl Spaces {
    /// None, with a word about it, where namespaces cannot be made.
    fn new() -> Option<Spaces> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let n = SERIAL.fetch_add(1, Relaxed);
        let names = ["a", "b"].map(|end| format!("gaudi-{}-{n}{end}", std::process::id()));
        let [a, b] = &names;
        if let Err(why) = sh(&format!("ip netns add {a} && ip netns add {b}")) {
            let _ = sh(&format!("ip netns del {a}; ip netns del {b}; true"));
            eprintln!("SKIPPED: network namespaces cannot be made (this needs root):\n{why}");
            return None;
        }
        let spaces = Spaces {
            fabrics: NETDEV.map(|netdev| Fabric::with(&["--netdev", netdev])),
            names: names.clone(),
        };
        let mut script =
            format!("set -e\nip link add gv0 netns {a} type veth peer name gv1 netns {b}\n");
        for i in 0..2 {
            let (ns, dev) = (&names[i], NETDEV[i]);
            script += &format!(
                "ip netns exec {ns} sh -c 'echo 0 >/proc/sys/net/ipv6/conf/{dev}/accept_dad'\n\
                 ip -n {ns} link set lo up\n\
                 ip -n {ns} addr add {}/24 dev {dev}\n\
                 ip -n {ns} addr add {}/64 dev {dev} nodad\n\
                 ip -n {ns} link set {dev} up\n",
                IPV4[i], IPV6[i]
            );
        }
        sh(&script).expect("addresses");
        // The kernel looks at carriers once a second, and gives link-local addresses then. Before that, what is sent there is lost.
        let deadline = Instant::now() + Duration::from_secs(15);
        let ready = |ns: &String| {
            sh(&format!("ip -n {ns} -6 addr show scope link up"))
                .is_ok_and(|t| t.contains("inet6 fe80") && !t.contains("tentative"))
        };
        while !names.iter().all(ready) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(spaces)
    }

    /// The command in a namespace, on its fabric.
    fn line(&self, i: usize, line: &str) -> Command {
        let inner = self.fabrics[i].line(line);
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.names[i]])
            .arg(inner.get_program())
            .args(inner.get_args());
        for (name, value) in inner.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }

    /// As `pair`, and once more: tools wait for ever for a datagram that is lost, which a network under load may do.
    fn lossy(&self, tool: &str, client: usize) -> Result<(Finished, Finished), String> {
        self.pair(tool, client).or_else(|first| {
            self.pair(tool, client)
                .map_err(|second| format!("{first}\nonce more: {second}"))
        })
    }

    /// Server in the first namespace, client in the second (or in the first as well).
    fn pair(&self, tool: &str, client: usize) -> Result<(Finished, Finished), String> {
        run_pair(
            |port| {
                let line = format!("{tool} -p {port}");
                (
                    self.line(0, &line),
                    self.line(client, &format!("{line} {}", IPV4[0])),
                )
            },
            LIMIT,
        )
    }

    fn ip(&self, i: usize, args: &str) {
        sh(&format!("ip -n {} {args}", self.names[i])).expect("ip");
    }
}

impl Drop for Spaces {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = sh(&format!("ip netns del {name}"));
        }
    }
}

#[test]
fn datagrams_between_namespaces() {
    let Some(spaces) = Spaces::new() else { return };
    let mut failures = Failures::default();
    // Link-local, IPv4 and IPv6, each as RoCE v1 and v2.
    for gid in 0..6 {
        let modes: &[&str] = if gid % 2 == 1 {
            &["", "-e"]
        } else {
            &["-e -s 1024"]
        };
        for args in modes {
            let line = format!("ibv_ud_pingpong -c -n 200 -g {gid} {args}");
            let done = spaces.lossy(&line, 1).map(|_| ());
            failures.note(&line, done);
        }
    }
    let some = [
        "ib_send_lat -c UD -a -n 100",
        "ib_send_lat -c UD -e -n 200",
        "ib_send_lat -c UD -I 64 -x 5",
        "ib_send_bw -c UD -a",
        "ib_send_bw -c UD -b -x 5",
        "ib_send_bw -c UD -q 4 -e",
        "ib_send_bw -c UD -t 1 -r 1 -n 200",
        "ib_send_bw -c UD -n 500 -x 1",
    ];
    let more = [
        "ib_send_lat -c UD -s 1 -n 500",
        "ib_send_lat -c UD -s 1024 -n 500 -x 1",
        "ib_send_lat -c UD -t 16 -n 300",
        "ib_send_lat -c UD -r 1 -n 200",
        "ib_send_lat -c UD -I 220 -s 220 -n 300",
        "ib_send_lat -c UD --mr_per_qp -n 200",
        "ib_send_lat -c UD -D 1",
        "ib_send_bw -c UD -s 1 -n 500",
        "ib_send_bw -c UD -t 16 -n 500",
        "ib_send_bw -c UD -t 512 -n 1000",
        "ib_send_bw -c UD -r 512 -n 1000",
        "ib_send_bw -c UD -q 16 -n 100",
        "ib_send_bw -c UD -q 128 -t 4 -r 16 -n 50",
        "ib_send_bw -c UD -l 8 -n 400",
        "ib_send_bw -c UD -Q 1 -n 300",
        "ib_send_bw -c UD -b -e -n 300",
        "ib_send_bw -c UD -I 64 -s 64 -n 500",
        "ib_send_bw -c UD --use-srq -q 4 -n 200",
        "ib_send_bw -c UD --mr_per_qp -q 2 -n 300",
        "ib_send_bw -c UD -N -n 500",
        "ib_send_bw -c UD -D 1",
    ];
    let more = more
        .iter()
        .filter(|_| std::env::var_os("GAUDI_TESTS_LONG").is_some());
    for line in some.iter().chain(more) {
        let done = spaces.lossy(line, 1).and_then(|(server, client)| {
            if rows(&client.stdout).is_empty() {
                return Err(format!("no table: {server}{client}"));
            }
            Ok(())
        });
        failures.note(line, done);
    }
    // Both ends in one namespace, by the same addresses.
    for line in [
        "ibv_ud_pingpong -c -n 200 -g 3",
        "ibv_ud_pingpong -c -n 200 -g 5",
        "ibv_rc_pingpong -c -g 3",
        "ibv_rc_pingpong -c -g 5",
    ] {
        failures.note(&format!("local {line}"), spaces.lossy(line, 0).map(|_| ()));
    }
    failures.check();
}

#[test]
fn multicast_between_namespaces() {
    let Some(spaces) = Spaces::new() else { return };
    let mut failures = Failures::default();
    // perftest's groups are IPv6 ones, so that it refuses to start from an IPv4 GID.
    for line in [
        "ib_send_bw -c UD -g -n 500 -x 1",
        "ib_send_bw -c UD -g -n 500 -x 5",
        "ib_send_lat -c UD -g -n 200 -x 5",
    ] {
        let done = spaces.lossy(line, 1).map(|_| ());
        failures.note(line, done);
    }
    failures.check();
}

/// Members in both namespaces, several in a process; each also by its own number (tests/c/groups.c).
#[test]
fn groups_and_numbers_reach_everybody() {
    let Some(spaces) = Spaces::new() else { return };
    let program = compile("groups");
    let program = program.display();
    let mut failures = Failures::default();
    let mapped = IPV4.map(|ip| format!("::ffff:{ip}"));
    for (group, index, addresses) in [
        ("ff0e::ffff:239.7.7.7", 3, mapped),
        ("ff12::7777", 5, IPV6.map(str::to_string)),
    ] {
        let places = [1, 1, 0];
        let mut members =
            places.map(|i| spawn(spaces.line(i, &format!("{program} take {index} {group} 100"))));
        let deadline = Instant::now() + LIMIT;
        let mut line = format!("{program} send {index} {group}");
        for (i, member) in places.iter().zip(&mut members) {
            let ready = loop {
                let text = member.so_far();
                if text.contains('\n') || member.is_over() || Instant::now() > deadline {
                    break text;
                }
                std::thread::sleep(Duration::from_millis(5));
            };
            for number in ready.split_whitespace().skip(1) {
                line += &format!(" {} {number}", addresses[*i]);
            }
        }
        let sender = spawn(spaces.line(0, &line));
        for member in members {
            failures.note(&line, member.finish(LIMIT).expect_success());
        }
        drop(sender);
    }
    failures.check();
}

/// rdma-core's Python tests of datagrams, on a port that is bound to an interface: both ends are in one process.
#[test]
fn python_tests_on_an_interface() {
    const PACKAGED: &str = "/usr/share/doc/rdma-core/tests";
    let Some(spaces) = Spaces::new() else { return };
    if !Path::new(PACKAGED).is_dir() {
        eprintln!("SKIPPED: {PACKAGED} is not there");
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    unpack(Path::new(PACKAGED), dir.path());
    for gid in [3, 5] {
        let line = format!(
            "/usr/bin/python3 -W ignore tests/run_tests.py -v --dev hbl_0 --gid {gid} -k ud"
        );
        let mut command = spaces.line(0, &line);
        command.current_dir(dir.path());
        let done = spawn(command).finish(Duration::from_secs(60));
        let ends = outcomes(&done.stderr);
        let passed = ends.values().filter(|e| **e == End::Ok).count();
        assert!(
            done.success() && ran(&done.stderr) == Some(ends.len()) && passed >= 12,
            "{passed} passed: {done}"
        );
    }
}

/// RC has no wire: what is not in this fabric does not answer, and the program hears so soon.
#[test]
fn connections_do_not_leave_the_host() {
    let Some(spaces) = Spaces::new() else { return };
    let started = Instant::now();
    let said = match spaces.pair("ibv_rc_pingpong -g 3", 1) {
        Ok((_, client)) => panic!("connected: {client}"),
        Err(said) => said,
    };
    assert!(said.contains("transport retry counter exceeded"), "{said}");
    assert!(started.elapsed() < Duration::from_secs(30));
}

/// Sysfs and the GID query agree, before and after changes; each change is an event.
#[test]
fn gids_follow_the_interface() {
    let Some(spaces) = Spaces::new() else { return };
    let table = || {
        let done = spawn(spaces.line(0, "ibv_devinfo -v")).finish(LIMIT);
        assert!(done.success(), "{done}");
        done.stdout
    };
    let sysfs = |path: &str| {
        let line = format!("cat /sys/class/infiniband/hbl_0/ports/1/{path}");
        let done = spawn(spaces.line(0, &line)).finish(LIMIT);
        if done.success() {
            done.stdout
        } else {
            String::new()
        }
    };
    let first = table();
    for gid in ["::ffff:10.77.0.1, RoCE v2", "fd77::1, RoCE v2", "fe80::"] {
        assert!(first.contains(gid), "{gid} is not in\n{first}");
    }
    assert!(
        first.contains("active_mtu:\t\t1024") && first.contains("port_lid:\t\t0"),
        "{first}"
    );
    assert_eq!(sysfs("gids/3"), "0000:0000:0000:0000:0000:ffff:0a4d:0001\n");
    assert_eq!(
        (sysfs("gid_attrs/types/3"), sysfs("gid_attrs/ndevs/3")),
        ("RoCE v2\n".into(), "gv0\n".into())
    );
    assert_eq!(sysfs("gid_attrs/types/6"), "");
    let mut watch = spawn(spaces.line(0, "stdbuf -oL ibv_asyncwatch -d hbl_0"));
    let mut seen = 0;
    let mut expect = |what: &str| {
        let deadline = Instant::now() + Duration::from_secs(15);
        loop {
            let text = watch.so_far();
            let lines: Vec<&str> = text.lines().collect();
            if let Some(at) = lines.iter().skip(seen).position(|l| l.contains(what)) {
                seen += at + 1;
                return;
            }
            assert!(
                !watch.is_over() && Instant::now() < deadline,
                "no {what}:\n{text}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    expect("async event FD");
    // The device is open, but the one who listens starts a moment later.
    std::thread::sleep(Duration::from_millis(200));
    spaces.ip(0, "addr add 10.77.1.1/24 dev gv0");
    expect("GID_CHANGE");
    assert_eq!(sysfs("gids/7"), "0000:0000:0000:0000:0000:ffff:0a4d:0101\n");
    assert!(
        table().contains("GID[  7]:\t\t::ffff:10.77.1.1, RoCE v2"),
        "{}",
        table()
    );
    // What goes leaves a hole; the others stay where they are.
    spaces.ip(0, "addr del 10.77.0.1/24 dev gv0");
    expect("GID_CHANGE");
    assert_eq!(sysfs("gids/3"), "0000:0000:0000:0000:0000:0000:0000:0000\n");
    assert_eq!(sysfs("gid_attrs/types/3"), "");
    assert!(
        !table().contains("10.77.0.1") && table().contains("GID[  7]:"),
        "{}",
        table()
    );
    spaces.ip(0, "link set gv0 down");
    expect("PORT_ERR");
    assert_eq!(sysfs("state"), "1: DOWN\n");
    assert!(table().contains("PORT_DOWN (1)"), "{}", table());
    spaces.ip(0, "link set gv0 up");
    expect("PORT_ACTIVE");
    assert!(table().contains("PORT_ACTIVE (4)"), "{}", table());
    drop(watch);
}

/// A QP that runs follows its port's addresses.
#[test]
fn a_running_qp_gets_the_new_address() {
    let Some(spaces) = Spaces::new() else { return };
    // Its first GID's address goes and comes back while datagrams of the other one go on.
    let running = std::thread::scope(|s| {
        let changes = s.spawn(|| {
            for _ in 0..4 {
                std::thread::sleep(Duration::from_millis(200));
                spaces.ip(0, "addr del fd77::1/64 dev gv0");
                std::thread::sleep(Duration::from_millis(200));
                spaces.ip(0, "addr add fd77::1/64 dev gv0 nodad");
            }
        });
        let done = spaces.lossy("ib_send_lat -c UD -D 2 -x 3", 1);
        changes.join().expect("changes");
        done
    });
    running.expect("a pair over the address that stayed");
    let line = "ibv_ud_pingpong -c -n 200 -g 5";
    spaces.lossy(line, 1).expect("the address that came back");
}

/// Wrong names and a fabric of another namespace: a sentence that says what to do.
#[test]
fn wrong_interfaces_are_told() {
    let fabric = Fabric::with(&["--netdev", "no-such0"]);
    let done = spawn(fabric.line("true")).finish(LIMIT);
    assert_eq!(done.status.and_then(|s| s.code()), Some(125), "{done}");
    assert!(
        done.stderr.contains("no such interface here. There are: "),
        "{done}"
    );
    let Some(spaces) = Spaces::new() else { return };
    let holder = spawn(spaces.line(0, "sleep 30"));
    let deadline = Instant::now() + Duration::from_secs(10);
    while std::fs::read_to_string(format!("/proc/{}/comm", holder.pid()))
        .is_ok_and(|c| c.trim() != "sleep")
        && Instant::now() < deadline
    {
        std::thread::sleep(Duration::from_millis(10));
    }
    // The same fabric from here, where there is no such interface.
    let outside = spawn(spaces.fabrics[0].line("true")).finish(LIMIT);
    assert_eq!(
        outside.status.and_then(|s| s.code()),
        Some(125),
        "{outside}"
    );
    drop(holder);
}

/// What a container gives, with and without privileges: namespaces of its own, 64 MB of /dev/shm, few capabilities, no new privileges.
#[test]
fn inside_a_container() {
    let tool = gaudi_tests::artefact("gaudi-soft");
    // The client is started until the server listens.
    let script = format!(
        r#"set -e
mount -t tmpfs -o size=64m tmpfs /dev/shm
ip link set lo up
unset GAUDI_SOFT_ROOT XDG_RUNTIME_DIR
cat >/dev/shm/pairs <<'END'
set -e
pair() {{
    timeout 20 {tool} run -- "$@" >/dev/null 2>&1 & server=$!
    for i in 1 2 3 4 5 6 7 8 9; do
        sleep 0.2
        if timeout 20 {tool} run -- "$@" 127.0.0.1 >/dev/null 2>&1; then wait $server; echo "passed"; return; fi
        kill -0 $server
    done
    exit 1
}}
{tool} doctor | tail -1
pair ibv_rc_pingpong -c -g 3 -s 100000
pair ibv_ud_pingpong -c -g 3
pair ib_send_bw -F -c UD -q 64 -n 50
pair ib_write_bw -F -s 65536 -n 200
END
exec setpriv --no-new-privs --inh-caps=-all --bounding-set=-all,+chown,+setuid,+setgid,+kill,+net_raw sh /dev/shm/pairs
"#,
        tool = tool.display()
    );
    let spaces = "--net --ipc --uts --pid --fork --mount --mount-proc";
    let mut failures = Failures::default();
    for user in ["", "--user --map-root-user"] {
        let can = sh(&format!("unshare {user} {spaces} true"));
        if let Err(why) = can {
            eprintln!("SKIPPED: unshare {user}:\n{why}");
            continue;
        }
        let mut command = Command::new("unshare");
        command
            .args(user.split_whitespace())
            .args(spaces.split_whitespace())
            .args(["sh", "-c", &script]);
        let done = spawn(command).finish(Duration::from_secs(60));
        let whole = done.stdout.matches("passed").count() == 4
            && done.stdout.contains("The soft device should work here.");
        let result = if whole {
            done.expect_success()
        } else {
            Err(done.to_string())
        };
        failures.note(user, result);
    }
    failures.check();
}
