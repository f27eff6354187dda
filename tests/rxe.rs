//! Somebody else's provider on our device files: Debian's librxe. It moves no data there, but every object can be made.

use gaudi_tests::{Fabric, spawn, workspace};
use std::time::Duration;

#[test]
fn devinfo_through_the_stock_provider() {
    let done = spawn(Fabric::with(&["--rxe"]).line("ibv_devinfo -v -d rxe_soft0"))
        .finish(Duration::from_secs(30));
    assert!(done.success(), "{done}");
    for word in ["hca_id:\trxe_soft0", "PORT_ACTIVE (4)", "Ethernet"] {
        assert!(done.stdout.contains(word), "{word} is missing\n{done}");
    }
}

#[test]
fn objects_through_the_stock_provider() {
    let script = workspace().join("tests/py/objects.py");
    let command = Fabric::with(&["--rxe"]).run(
        "/usr/bin/python3",
        [script.as_os_str(), "rxe_soft0".as_ref()],
    );
    let done = spawn(command).finish(Duration::from_secs(60));
    assert!(done.success() && done.stdout.ends_with("ok\n"), "{done}");
}

#[test]
fn objects_through_our_provider() {
    let script = workspace().join("tests/py/objects.py");
    let command = Fabric::with(&[]).run("/usr/bin/python3", [script.as_os_str(), "hbl_0".as_ref()]);
    let done = spawn(command).finish(Duration::from_secs(60));
    assert!(done.success() && done.stdout.ends_with("ok\n"), "{done}");
}
