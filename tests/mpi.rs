//! Open MPI as Debian packages it, over the device and nothing else. The programs of tests/c compare every result, and the device's
//! counters with what they have sent.

use gaudi_tests::{Fabric, Failures, compile_with, spawn};
use std::path::Path;
use std::time::Duration;

/// The words in front of the program. `any`: Open MPI prefers UCX only where the driver is called mlx*.
fn mpirun(ranks: u32, tls: &str) -> String {
    format!(
        "mpirun --allow-run-as-root --oversubscribe -np {ranks} --mca pml ucx --mca osc ucx \
         --mca opal_common_ucx_tls any --mca opal_common_ucx_devices any --mca btl ^vader,tcp,openib \
         -x UCX_TLS={tls} -x UCX_NET_DEVICES=hbl_0:1"
    )
}

fn run(fabric: &Fabric, mpirun: &str, program: &Path, most: &str) -> Result<(), String> {
    let mut command = fabric.line(mpirun);
    command.arg(program).args(most.split_whitespace());
    let done = spawn(command).finish(Duration::from_secs(120));
    done.expect_success()?;
    if done.stdout.contains(" ranks, 0 wrong") {
        Ok(())
    } else {
        Err(done.to_string())
    }
}

fn each(program: &str, runs: &[(u32, &str, &str)]) {
    let program = compile_with(program, "mpicc");
    let fabric = Fabric::with(&[]);
    let mut failures = Failures::default();
    for (ranks, tls, most) in runs {
        let result = run(&fabric, &mpirun(*ranks, tls), program.as_ref(), most);
        failures.note(&format!("{ranks} ranks over {tls}"), result);
    }
    failures.check();
}

#[test]
fn messages() {
    each(
        "mpi_p2p",
        &[
            (2, "rc_v,self", ""),
            (4, "rc_v,self", "1048576"),
            (8, "rc_v,self", "65536"),
            (4, "ud_v,self", "1048576"),
        ],
    );
}

/// Eight ranks on two CPUs: who waits lets the others run.
#[test]
fn collectives() {
    each(
        "mpi_coll",
        &[
            (2, "rc_v,self", "1000"),
            (4, "rc_v,self", ""),
            (8, "rc_v,self", "1000"),
            (4, "ud_v,self", "1000"),
        ],
    );
}

/// MPICH's ch4:ucx; NOLOCAL keeps its own shared memory out.
#[test]
fn mpich() {
    let fabric = Fabric::with(&[]);
    let mut failures = Failures::default();
    for (ranks, program, most) in [(2, "mpi_p2p", "1048576"), (4, "mpi_coll", "33")] {
        let program = compile_with(program, "mpicc.mpich");
        let line = format!(
            "env MPIR_CVAR_NOLOCAL=1 UCX_TLS=rc_v,self UCX_NET_DEVICES=hbl_0:1 mpirun.mpich -np {ranks}"
        );
        let result = run(&fabric, &line, program.as_ref(), most);
        failures.note(&format!("{ranks} ranks of MPICH"), result);
    }
    failures.check();
}

#[test]
fn one_sided() {
    each(
        "mpi_rma",
        &[
            (4, "rc_v,self", "win_allocate"),
            (2, "rc_v,self", ""),
            (4, "ud_v,self", "win_allocate"),
        ],
    );
}
