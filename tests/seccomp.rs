//! Where process_vm_writev(2) is refused, as by the seccomp filters of old container engines, the bytes go by the descriptor.

use gaudi_tests::{Fabric, Failures, artefact, compile, rows, run_pair, spawn};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const WATCHDOG: Duration = Duration::from_secs(60);

fn pair(refuse: &Path, fabric: &Fabric, tool: &str) -> Result<String, String> {
    let refuse = refuse.display();
    let line = |port, host| fabric.line(&format!("{refuse} {tool} -p {port} {host}"));
    run_pair(|port| (line(port, ""), line(port, "127.0.0.1")), WATCHDOG)
        .map(|(_, client)| client.stdout)
}

#[test]
fn all_sizes_arrive() {
    let refuse = compile("refuse");
    let fabric = Fabric::with(&[]);
    let mut failures = Failures::default();
    for size in [9, 4096, 100_000, 2_000_001] {
        let line = format!("ibv_rc_pingpong -g 0 -c -n 20 -s {size}");
        failures.note(&line, pair(&refuse, &fabric, &line).map(drop));
    }
    for tool in ["ib_write_bw", "ib_read_bw", "ib_send_bw"] {
        let line = format!("{tool} -F -a -n 20");
        let table = pair(&refuse, &fabric, &line).map(|out| rows(&out).len());
        failures.note(
            &line,
            match table {
                Ok(23) => Ok(()),
                other => Err(format!("not a row for each of 23 sizes: {other:?}")),
            },
        );
    }
    failures.check();
}

#[test]
fn the_doctor_says_so() {
    let refuse = compile("refuse");
    let mut doctor = Command::new(&*refuse);
    doctor.arg(artefact("gaudi-soft")).arg("doctor");
    let said = spawn(doctor).finish(WATCHDOG);
    assert!(
        said.stdout
            .contains("process_vm_writev: Operation not permitted")
            && said.stdout.contains("/proc/PID/mem: works"),
        "{said}"
    );
}
