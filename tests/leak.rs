//! Nothing leaks: a counted snapshot before and after two hundred times open, use, close (tests/c/leak.c).

use gaudi_tests::{Fabric, compile, spawn};
use rustix::process::Signal;
use std::time::{Duration, Instant};

#[test]
fn two_hundred_cycles_leave_nothing() {
    let program = compile("leak");
    let fabric = Fabric::with(&[]);
    let mut running = spawn(fabric.run(program.as_os_str(), ["200"]));
    let deadline = Instant::now() + Duration::from_secs(120);
    while !running.so_far().ends_with("closed\n") {
        if running.is_over() || Instant::now() > deadline {
            panic!("{}", running.finish(Duration::ZERO));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let text = running.so_far();
    for line in text.lines().filter(|l| l.contains(' ')) {
        let words: Vec<&str> = line.split(' ').collect();
        let (before, after): (i64, i64) = (words[1].parse().unwrap(), words[2].parse().unwrap());
        // malloc may map or unmap an arena; everything that we hold is counted to the piece.
        let slack = if words[0] == "maps" { 4 } else { 0 };
        assert!((after - before).abs() <= slack, "{text}");
    }
    // The process lives, attached, with nothing open: 0 contexts, 0 QPs, 0 CQs.
    let pid = running.pid().to_string();
    let devices = fabric.devices();
    if let Some(line) = devices
        .lines()
        .find(|l| l.split_whitespace().next() == Some(&pid))
    {
        let tail: Vec<&str> = line.split_whitespace().rev().take(5).collect();
        assert_eq!(tail, ["0", "0", "0", "0", "-"], "{devices}");
    }
    let files = fabric.files();
    running.signal(Signal::TERM);
    running.finish(Duration::from_secs(5));

    // Files of the fabric neither grow nor multiply over many processes.
    for _ in 0..20 {
        let done = spawn(fabric.line("ibv_devinfo -v")).finish(Duration::from_secs(20));
        assert!(done.success(), "{done}");
    }
    assert_eq!(fabric.files(), files);
    assert!(
        fabric.devices().contains("No process uses it"),
        "{}",
        fabric.devices()
    );
}

#[test]
fn opens_that_fail_leave_nothing() {
    let program = compile("leak");
    let fabric = Fabric::with(&[]);
    let done =
        spawn(fabric.run(program.as_os_str(), ["failing-opens"])).finish(Duration::from_secs(60));
    assert!(done.success(), "{done}");
}

/// tests/c/control.c under valgrind (which sees what the libraries allocate and touch, and knows all that they ask of the kernel and the processor).
#[test]
fn valgrind_finds_no_leak_and_no_bad_access() {
    let program = compile("control");
    let fabric = Fabric::with(&[]);
    let valgrind = |case: &[&str]| {
        let program = program.to_str().expect("a path");
        let options = [
            "--quiet",
            "--error-exitcode=9",
            "--leak-check=full",
            "--show-leak-kinds=definite",
            "--errors-for-leak-kinds=definite",
        ];
        let line = options.iter().copied().chain([program]);
        spawn(fabric.run("valgrind", line.chain(case.iter().copied())))
            .finish(Duration::from_secs(120))
    };
    let done = valgrind(&[]);
    assert!(
        done.success(),
        "(apt-get install valgrind libc6-dbg) {done}"
    );
    for fault in ["leak", "stray"] {
        let done = valgrind(&[fault]);
        assert_eq!(done.status.and_then(|s| s.code()), Some(9), "{done}");
    }
}
