//! `gaudi-soft status`: what people read, while programs run, die, and when the file is damaged.

use gaudi_tests::{Fabric, Finished, Running, spawn, start_pair};
use std::time::{Duration, Instant};

fn status(fabric: &Fabric, args: &[&str]) -> Finished {
    let mut command = fabric.tool();
    command.arg("status").args(args);
    spawn(command).finish(Duration::from_secs(20))
}

/// A pair of `ib_send_bw` that runs until it is dropped.
fn busy(fabric: &Fabric) -> (Running, Running) {
    let line =
        |port: u16, end: &str| fabric.line(&format!("ib_send_bw -q 2 -D 60 -F -p {port} {end}"));
    let make = |port| (line(port, "-d hbl_0"), line(port, "-d hbl_1 localhost"));
    start_pair(&make).unwrap_or_else(|e| panic!("{e}"))
}

/// Looks again until the text is there.
fn until(fabric: &Fabric, args: &[&str], wanted: impl Fn(&str) -> bool) -> String {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let done = status(fabric, args);
        assert!(done.success(), "{done}");
        if wanted(&done.stdout) || Instant::now() > deadline {
            return done.stdout;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_running_pair_is_one_line() {
    let fabric = Fabric::two_devices();
    let (server, client) = busy(&fabric);
    let (a, b) = (server.pid(), client.pid());
    let ends = |line: &str| {
        let has = |pid: u32| line.contains(&format!("{pid} ib_send_bw"));
        has(a) && has(b)
    };
    let moving = |text: &str| {
        text.lines()
            .any(|l| ends(l) && l.contains("<== 2 RC ==>") && l.contains(" MB/s"))
    };
    let text = until(&fabric, &[], |t| moving(t) || t.contains(" GB/s"));
    let link = text
        .lines()
        .find(|l| ends(l) && l.contains("<== 2 RC ==>"))
        .unwrap_or_else(|| panic!("no such connection:\n{text}"));
    assert!(link.contains("B/s"), "{link}");
    // Each end's own tree: two QPs that name the other process, its number and state.
    for (own, peer, from, to) in [(a, b, "hbl_0/1", "hbl_1/1"), (b, a, "hbl_1/1", "hbl_0/1")] {
        let mut lines = text
            .lines()
            .skip_while(|l| !l.starts_with(&format!("{own} ib_send_bw ")));
        let _head = lines
            .next()
            .unwrap_or_else(|| panic!("no tree of {own}:\n{text}"));
        let qps: Vec<&str> = lines.take_while(|l| !l.is_empty()).collect();
        assert_eq!(qps.len(), 2, "{text}");
        for qp in qps {
            let wanted = format!("==> {peer} ib_send_bw {to} RC 0x");
            assert!(
                qp.contains(&format!("- {from} RC 0x")) && qp.contains(&wanted),
                "{qp}"
            );
            assert!(qp.contains(" RTS") && qp.contains("writes"), "{qp}");
        }
    }
    assert!(text.contains("hbl_1\n`- port 1 ACTIVE on lo") && text.contains("127.17.1.1"));
    assert!(!text.contains('\x1b') && text.is_ascii(), "{text:?}");
    // The same for programs, and read by one.
    let json = status(&fabric, &["--json"]);
    let mut python = std::process::Command::new("python3");
    python.args(["-c", CHECK, &json.stdout, &a.to_string(), &b.to_string()]);
    let checked = spawn(python).finish(Duration::from_secs(20));
    assert!(checked.success(), "{checked}{json}");
    // One end dies: it is not shown any more. (The other one ends when it finds out.)
    client.signal(rustix::process::Signal::KILL);
    drop(client);
    let text = until(&fabric, &[], |t| !t.contains(&format!("{b} ")));
    assert!(!text.contains(&format!("{b} ")), "{text}");
    drop(server);
    let text = until(&fabric, &[], |t| t.contains("No process uses it."));
    assert!(text.contains("No process uses it."), "{text}");
}

const CHECK: &str = "
import json, sys
p = json.loads(sys.argv[1])
a, b = int(sys.argv[2]), int(sys.argv[3])
ends = {x['pid']: x for x in p['processes']}
for own, peer in (a, b), (b, a):
    assert len(ends[own]['qps']) == 2, ends[own]
    for q in ends[own]['qps']:
        assert q['type'] == 'RC' and q['state'] in ('RTR', 'RTS'), q
        assert q['mutual'] and q['peer']['pid'] == peer, q
        assert q['peer']['number'] in [r['number'] for r in ends[peer]['qps']], q
assert sum(q['sent_bytes'] for q in ends[b]['qps']) > 100000, ends[b]
assert sum(q['sent_bytes_per_s'] for q in ends[b]['qps']) > 0, ends[b]
assert [x['device'] for x in p['ports']] == ['hbl_0', 'hbl_1']
assert any(g['address'] == '127.16.1.1' and g['type'] == 'v2' for g in p['ports'][0]['gids'])
";

#[test]
fn watching_goes_on() {
    let fabric = Fabric::two_devices();
    let pair = busy(&fabric);
    let mut command = fabric.tool();
    command.args(["status", "--watch"]);
    let mut watch = spawn(command);
    let deadline = Instant::now() + Duration::from_secs(20);
    let pictures = |text: &str| text.matches("Fabric default,").count();
    while pictures(&watch.so_far()) < 3 && Instant::now() < deadline {
        assert!(!watch.is_over(), "{}", watch.finish(Duration::ZERO));
        std::thread::sleep(Duration::from_millis(50));
    }
    // With programs that come and go under its eyes.
    drop(pair);
    let at_death = pictures(&watch.so_far());
    while pictures(&watch.so_far()) < at_death + 2 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(!watch.is_over());
    let text = watch.so_far();
    assert!(
        pictures(&text) >= at_death + 2 && text.contains("No process uses it."),
        "{text}"
    );
}

#[test]
fn datagrams_and_unconnected_pairs() {
    let fabric = Fabric::two_devices();
    let waiting = spawn(fabric.line(&format!("ibv_ud_pingpong -d hbl_0 -p {}", free_port())));
    let pid = waiting.pid();
    let tree = format!("{pid} ibv_ud_pingpong ");
    let text = until(&fabric, &[], |t| t.contains(&tree) && t.contains(" UD 0x"));
    assert!(
        text.contains("UD 0x") && text.contains("datagrams out 0 (0/s), in 0"),
        "{text}"
    );
    // A pair at work names each other; a member of a group says so.
    let line =
        |port: u16, end: &str| fabric.line(&format!("ib_send_lat -c UD -D 60 -F -p {port} {end}"));
    let make = |port| (line(port, "-d hbl_0"), line(port, "-d hbl_1 localhost"));
    let (server, client) = start_pair(&make).unwrap_or_else(|e| panic!("{e}"));
    let ends = [
        format!("last to {} ib_send_lat hbl_0/1 UD 0x", server.pid()),
        format!("last to {} ib_send_lat hbl_1/1 UD 0x", client.pid()),
    ];
    let text = until(&fabric, &[], |t| ends.iter().all(|e| t.contains(e)));
    assert!(ends.iter().all(|e| text.contains(e)), "{text}");
    drop((server, client));
    let line = |port: u16, end: &str| {
        fabric.line(&format!(
            "ib_send_bw -c UD -g -x 1 -D 60 -F -p {port} {end}"
        ))
    };
    let make = |port| (line(port, ""), line(port, "localhost"));
    let (server, client) = start_pair(&make).unwrap_or_else(|e| panic!("{e}"));
    let member = |t: &str| t.contains(", in 1 group") && t.contains(", last to a group");
    let text = until(&fabric, &[], member);
    assert!(member(&text), "{text}");
    drop((server, client));
    let idle = spawn(fabric.line("sleep 60"));
    let text = until(&fabric, &[], |t| t.contains("(has no device open)"));
    assert!(
        text.contains(&format!("{} sleep 60  (has no device open)", idle.pid())),
        "{text}"
    );
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

#[test]
fn nothing_there_is_no_error() {
    let fabric = Fabric::two_devices();
    let done = status(&fabric, &[]);
    assert!(
        done.success() && done.stdout.contains("no program has opened a device"),
        "{done}"
    );
}

/// Whatever stands in the file: an answer or a sentence, never a crash, and within bounds.
#[test]
fn damaged_files_are_survived() {
    let fabric = Fabric::two_devices();
    assert!(
        spawn(fabric.line("ibv_devinfo"))
            .finish(Duration::from_secs(20))
            .success()
    );
    let path = fabric.dir().join("fabric.shm");
    let mut state = std::time::UNIX_EPOCH
        .elapsed()
        .map_or(1, |d| d.as_nanos() as u64)
        | 1;
    println!("seed {state:#x}");
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    for round in 0..12 {
        // Behind the header: process table, contexts, and the first port's QPs, which then look live.
        for at in (64..(4 << 20)).step_by(64) {
            let word = match random() % 4 {
                0 => random(),
                1 => u64::MAX,
                2 => ((random() % 1024) << 4) | 2 | (1 << 32),
                _ => random() & 0xffff_ffff_0000_03ff,
            };
            file.write_at(&word.to_le_bytes(), at).unwrap();
        }
        let done = status(
            &fabric,
            if round % 2 == 0 {
                &["--all"]
            } else {
                &["--json"]
            },
        );
        assert!(done.success(), "{done}");
    }
    file.write_at(&[0xff; 64], 0).unwrap();
    let done = status(&fabric, &[]);
    assert_eq!(done.status.and_then(|s| s.code()), Some(1), "{done}");
    assert!(done.stderr.contains("gaudi-soft clean"), "{done}");
    file.set_len(100).unwrap();
    let done = status(&fabric, &[]);
    assert_eq!(done.status.and_then(|s| s.code()), Some(1), "{done}");
}
