//! A program that never polls while others READ its memory: its agent does the work, and at the speed of copies.

use gaudi_tests::{Fabric, rows, run_pair};
use std::time::Duration;

/// Large answers used to wait for the agent's next millisecond after each quarter of a MiB.
#[test]
fn large_reads_of_a_passive_program_do_not_wait_for_ticks() {
    let fabric = Fabric::with(&[]);
    let tool = "ib_read_lat -F -s 1048576 -n 200";
    let (_, client) = run_pair(
        |port| {
            (
                fabric.line(&format!("{tool} -p {port}")),
                fabric.line(&format!("{tool} -p {port} 127.0.0.1")),
            )
        },
        Duration::from_secs(60),
    )
    .unwrap();
    let table = rows(&client.stdout);
    // Bytes, iterations, then microseconds: least, most, typical.
    let typical = table[0][4];
    assert!(
        typical < 2000.0,
        "{typical} us for a MiB, ticks alone are 4000\n{client}"
    );
}
