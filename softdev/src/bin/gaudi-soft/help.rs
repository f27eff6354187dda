//! The texts behind --help.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Topic {
    Main,
    Run,
    Devices,
    Status,
    Doctor,
    Clean,
}

impl Topic {
    pub(crate) fn named(name: &str) -> Option<Topic> {
        Some(match name {
            "run" => Topic::Run,
            "devices" => Topic::Devices,
            "status" => Topic::Status,
            "doctor" => Topic::Doctor,
            "clean" => Topic::Clean,
            _ => return None,
        })
    }
}

pub(crate) fn text(topic: Topic) -> &'static str {
    match topic {
        Topic::Main => MAIN,
        Topic::Run => RUN,
        Topic::Devices => DEVICES,
        Topic::Status => STATUS,
        Topic::Doctor => DOCTOR,
        Topic::Clean => CLEAN,
    }
}

const MAIN: &str = "\
gaudi-soft - run verbs programs on a GAUDI2 made of software

USAGE
    gaudi-soft run [OPTIONS] -- PROGRAM [ARGS]
    gaudi-soft status [--watch] [--fabric NAME]
    gaudi-soft devices [--fabric NAME]
    gaudi-soft doctor
    gaudi-soft clean [--fabric NAME]
    gaudi-soft COMMAND --help
    gaudi-soft --version

DESCRIPTION
    Loads a soft device into PROGRAM, which then finds the RDMA device hbl_0 and exchanges real bytes with other programs
    started in the same way. Nothing is installed in the kernel, no privilege is needed, and no daemon runs.

COMMANDS
    run       start a program with the soft device
    status    show what is connected to what, and how fast
    devices   show the devices of a fabric and who uses them
    doctor    say what on this machine would keep it from working, and the cure
    clean     remove a fabric that nobody uses

EXAMPLE
    In one terminal, then in another:
        gaudi-soft run -- ibv_rc_pingpong
        gaudi-soft run -- ibv_rc_pingpong localhost
";

const RUN: &str = "\
gaudi-soft run - start a program with the soft device

USAGE
    gaudi-soft run [OPTIONS] -- PROGRAM [ARGS]

DESCRIPTION
    Sets the environment that loads the soft device (LD_PRELOAD) and the provider (IBV_DRIVERS, or RDMAV_DRIVERS where that is
    set) into PROGRAM and everything that PROGRAM starts, then becomes PROGRAM: process id, signals and exit code are its own.

    Programs of one user that name the same fabric see each other. The first one fixes the fabric's options. Later ones take
    over what they do not say; an option that contradicts a fabric in use is an error. A fabric that nobody uses any
    more is made anew when other options are asked for.

OPTIONS
    --fabric NAME      which fabric; letters, digits, '.', '_', '-' (default: \"default\")
    --devices N        how many devices, hbl_0 .. hbl_N-1, 1 to 8 (default: 1)
    --ports N          ports of each device, 1 to 24 (default: 1)
    --netdev IF[,IF]   bind the ports to these network interfaces, one for each port: their addresses make the GIDs, and datagrams
                       leave by them, to other namespaces and hosts as well (default: loopback addresses, this host only)
    --retry-ms N       longest time that a connection waits for a peer that does not answer before it fails; 0 leaves it to
                       the device (default: 0)
    --strict-posted    behave as the kernel driver that was posted in 2024, without our extensions: one context per device
    --rxe              name the devices rxe_soft0 ... and serve the stock rxe provider, which can create objects but not move data
    -h, --help         this text

ENVIRONMENT
    GAUDI_SOFT_ROOT    folder of the fabrics. Default: /dev/shm/gaudi-soft-UID, or $XDG_RUNTIME_DIR/gaudi-soft where there is no
                       /dev/shm. It and every fabric must belong to the user and be closed to others.
    GAUDI_SOFT_LIBDIR  folder of libgaudi_softdev.so and libgaudi.so. Default: the folder of gaudi-soft, then ../lib/gaudi-verbs

    GAUDI_LOG          off, error, warn, info, debug or trace: what the soft device and the provider say on standard error, one line
                       each (default: off; what keeps a program from having a device at all is always said)

LIMITS
    Statically linked programs, set-user-ID programs and programs that make system calls without libc do not see the device;
    gaudi-soft warns about the first two. The program holds one additional descriptor, which marks the fabric as used.

EXIT STATUS
    That of PROGRAM. 125: gaudi-soft itself failed; 126: PROGRAM cannot be executed; 127: PROGRAM was not found.

EXAMPLES
    gaudi-soft run -- ibv_devinfo -v
    gaudi-soft run --fabric lab --devices 2 -- ib_write_bw -d hbl_0
    gaudi-soft run --fabric lab -- ib_write_bw -d hbl_1 localhost
    gaudi-soft run -- bash
";

const DEVICES: &str = "\
gaudi-soft devices - show the devices of a fabric and who uses them

USAGE
    gaudi-soft devices [--fabric NAME]

DESCRIPTION
    Prints each device with its GUID, each port with its addresses, and each process that uses the fabric: process id, command,
    devices, contexts, QPs (and how many of them are in error) and CQs. It is a picture of one moment. What dead processes left is
    given back first.

OPTIONS
    --fabric NAME      which fabric (default: \"default\")
    -h, --help         this text

EXIT STATUS
    0: shown, also when the fabric does not exist yet; 1: the fabric cannot be read; 125: wrong usage.
";

const STATUS: &str = "\
gaudi-soft status - show what is connected to what, and how fast

USAGE
    gaudi-soft status [--watch[=SECONDS]] [--all] [--json] [--fabric NAME]

DESCRIPTION
    Prints the ports with their state, netdev, GIDs and traffic; which processes are connected with which, by how many connections,
    and how much goes each way; then each process with its QPs: type, number, state, and the QP at the other end.

        <== 4 RC ==>    connected both ways
        --- 1 RC -->    one end names a peer that is not there, or not connected back

    Rates are those of the last quarter of a second, with --watch of the last interval. Traffic of connections is counted in native
    writes, that of UD QPs in datagrams. What it prints is read from the fabric's file: no program notices.

OPTIONS
    --fabric NAME      which fabric (default: \"default\")
    -w, --watch[=S]    a new picture every second, or every S seconds, until it is interrupted
    -a, --all          each QP on a line of its own, however many there are
    --json             one JSON object for each picture
    -h, --help         this text

    Colours and drawn lines are for terminals only; NO_COLOR switches colours off.

EXIT STATUS
    0: shown, also when nobody uses the fabric; 1: the fabric cannot be read; 125: wrong usage.
";

const DOCTOR: &str = "\
gaudi-soft doctor - say what on this machine would keep the soft device from working, and the cure

USAGE
    gaudi-soft doctor

DESCRIPTION
    Checks processor, /proc, the rules about one process touching another (tried out, not only read), shared memory, limits,
    libibverbs and its tools, and real RDMA support in the kernel. Each line begins with

        OK      nothing to do
        WARN    works, but something is worth knowing
        FAIL    does not work; the line below says the cure

EXIT STATUS
    0: no FAIL; 1: at least one FAIL; 125: wrong usage.
";

const CLEAN: &str = "\
gaudi-soft clean - remove a fabric that nobody uses

USAGE
    gaudi-soft clean [--fabric NAME]

DESCRIPTION
    Removes the fabric's folder. It is never necessary: what killed processes leave is given back by the others or by the next
    one. A fabric in use is left alone.

OPTIONS
    --fabric NAME      which fabric (default: \"default\")
    -h, --help         this text

EXIT STATUS
    0: removed, or there was none; 1: in use, or cannot be removed; 125: wrong usage.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_fits_a_wide_terminal_and_says_how_to_call() {
        for topic in [
            Topic::Main,
            Topic::Run,
            Topic::Devices,
            Topic::Status,
            Topic::Doctor,
            Topic::Clean,
        ] {
            let text = text(topic);
            assert!(text.contains("USAGE\n    gaudi-soft"));
            for line in text.lines() {
                assert!(line.len() <= 132 && line == line.trim_end(), "{line:?}");
            }
        }
    }
}
