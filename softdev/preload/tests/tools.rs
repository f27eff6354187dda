//! Unmodified programs on the library: enumeration and objects through the stock rxe provider, and what must stay as it was.

mod common;

use common::{Fabric, have};
use std::process::Stdio;

const PYTHON: &str = "/usr/bin/python3";

#[test]
fn ibv_devinfo() {
    if !have("/usr/bin/ibv_devinfo") {
        return;
    }
    let fabric = Fabric::new("devinfo", true);
    let devices = fabric.run("ibv_devices", &[]);
    assert!(
        devices.contains("rxe_soft0") && devices.contains("rxe_soft1"),
        "{devices}"
    );
    assert!(
        devices.find("rxe_soft0") < devices.find("rxe_soft1"),
        "{devices}"
    );
    let info = fabric.run("ibv_devinfo", &["-v"]);
    for expected in [
        "PORT_ACTIVE",
        "fe80::1d:a3ff:fe00:1, RoCE v2",
        "::ffff:127.16.1.1, RoCE v2",
        "Ethernet",
        "SOFT_GAUDI2",
    ] {
        assert!(info.contains(expected), "{expected}: {info}");
    }
}

#[test]
fn hbl_devices_are_in_the_tree() {
    let fabric = Fabric::new("tree", false);
    let listed = fabric.run(
        "ls",
        &[
            "-l",
            "/sys/class/infiniband",
            "/dev/infiniband",
            "/dev/accel",
            "/sys/class/accel",
        ],
    );
    for expected in [
        "hbl_0 -> ../../devices/pci0000:00/0000:fd:00.0/infiniband/hbl_0",
        "231, 193 ",
        "261, 1 ",
        "accel0 ->",
    ] {
        assert!(listed.contains(expected), "{expected}: {listed}");
    }
    assert_eq!(
        fabric.run("cat", &["/sys/class/infiniband_verbs/uverbs0/ibdev"]),
        "hbl_0\n"
    );
    assert_eq!(
        fabric.run("readlink", &["/sys/class/infiniband/hbl_0/device/driver"]),
        "../../../bus/pci/drivers/hbl\n"
    );
    assert_eq!(
        fabric.run("stat", &["-L", "-c", "%F %t:%T", "/dev/char/231:192"]),
        "character special file e7:c0\n"
    );
    let counter = "/sys/class/infiniband/hbl_0/ports/1/hw_counters/tx_Octets";
    assert!(fabric.run("cat", &[counter]).trim().parse::<u64>().is_ok());
    let lifespan = "/sys/class/infiniband/hbl_0/ports/1/hw_counters/lifespan";
    assert_eq!(fabric.run("cat", &[lifespan]), "10\n");
    let find = fabric.run(
        "find",
        &["/sys/class/infiniband/", "-maxdepth", "1", "-type", "l"],
    );
    assert_eq!(find.lines().count(), 2, "{find}");
}

/// Objects through pyverbs on the stock rxe provider.
const OBJECTS: &str = r#"
import os, stat
import pyverbs.device as d
import pyverbs.enums as e
from pyverbs.pd import PD
from pyverbs.mr import MR, MW
from pyverbs.cq import CQ, CQEX, CqInitAttrEx, CompChannel
from pyverbs.qp import QP, QPInitAttr, QPCap, QPAttr
from pyverbs.srq import SRQ, SrqInitAttr, SrqAttr
from pyverbs.addr import AH, AHAttr, GlobalRoute
from pyverbs.pyverbs_error import PyverbsRDMAError

def refused(code, make):
    try:
        make()
    except PyverbsRDMAError as x:
        assert x.error_code == code, (x.error_code, code)
    else:
        raise AssertionError('not refused')

def fds():
    return sorted(os.listdir('/proc/self/fd'))

before = fds()
for _ in range(3):
    ctx = d.Context(name='rxe_soft0')
    assert str(ctx.query_gid(1, 0)) == 'fe80:0000:0000:0000:001d:a3ff:fe00:0001'
    assert len(ctx.query_gid_table(100)) == 4
    assert ctx.query_pkey(1, 0) == 0xffff
    refused(61, lambda: ctx.query_gid_ex(1, 9))
    pd = PD(ctx)
    mr = MR(pd, 4096, e.IBV_ACCESS_LOCAL_WRITE | e.IBV_ACCESS_REMOTE_WRITE)
    assert mr.lkey != 0
    refused(22, lambda: MR(pd, 4096, e.IBV_ACCESS_REMOTE_WRITE))
    ch = CompChannel(ctx)
    cq = CQ(ctx, 100, None, ch, 0)
    assert cq.cqe >= 100
    cq.resize(300)
    assert cq.cqe >= 300
    cq.req_notify()
    assert cq.poll(4) == (0, [])
    refused(22, lambda: CQ(ctx, 100, None, ch, 7))
    refused(22, lambda: CQ(ctx, 1 << 30, None, ch, 0))
    srq = SRQ(pd, SrqInitAttr(SrqAttr(max_wr=50, max_sge=2)))
    srq.modify(SrqAttr(srq_limit=10), e.IBV_SRQ_LIMIT)
    assert srq.query().srq_limit == 10
    srq.modify(SrqAttr(max_wr=200), e.IBV_SRQ_MAX_WR)
    assert srq.query().max_wr >= 200
    cap = QPCap(max_send_wr=10, max_recv_wr=10, max_send_sge=2, max_recv_sge=2, max_inline_data=64)
    kinds = ((e.IBV_QPT_RC, None), (e.IBV_QPT_UC, None), (e.IBV_QPT_UD, srq))
    qps = [QP(pd, QPInitAttr(qp_type=t, scq=cq, rcq=cq, cap=cap, srq=s)) for t, s in kinds]
    gr = GlobalRoute(dgid=ctx.query_gid(1, 1), sgid_index=1)
    addr = AHAttr(gr=gr, is_global=1, port_num=1)
    ah = AH(pd, attr=addr)
    refused(22, lambda: AH(pd, attr=AHAttr(port_num=1)))
    attr = QPAttr(port_num=1)
    attr.dest_qp_num = qps[0].qp_num
    attr.path_mtu = e.IBV_MTU_1024
    attr.ah_attr = addr
    attr.max_rd_atomic = attr.max_dest_rd_atomic = 1
    attr.min_rnr_timer, attr.timeout, attr.retry_cnt, attr.rnr_retry = 12, 14, 7, 7
    qps[0].to_rts(attr)
    got, _ = qps[0].query(e.IBV_QP_STATE | e.IBV_QP_CAP)
    assert got.qp_state == e.IBV_QPS_RTS and got.dest_qp_num == qps[0].qp_num
    mw = MW(pd, e.IBV_MW_TYPE_1)
    cqx = CQEX(ctx, CqInitAttrEx(cqe=10))
    for x in [mw, ah, *qps, srq, cqx, cq, ch, mr, pd]:
        x.close()
    ctx.close()
assert fds() == before, (fds(), before)

assert stat.S_ISCHR(os.stat('/dev/infiniband/uverbs0').st_mode)
here = os.open('/dev/infiniband', os.O_RDONLY)
fd = os.open('uverbs0', os.O_RDWR, dir_fd=here)
assert stat.S_ISCHR(os.fstat(fd).st_mode) and os.fstat(fd).st_rdev == os.makedev(231, 192)
copy = os.dup(fd)
os.close(fd)
assert stat.S_ISCHR(os.fstat(copy).st_mode)
os.close(copy)
os.close(here)
assert fds() == before, (fds(), before)
"#;

#[test]
fn pyverbs_objects() {
    if have("/usr/lib/python3/dist-packages/pyverbs") {
        Fabric::new("pyverbs", true).run(PYTHON, &["-c", OBJECTS]);
    }
}

/// A forked child may open the device for itself, and has no part in its parent's contexts.
const FORK: &str = r#"
import os
import pyverbs.device as d
from pyverbs.pd import PD
from pyverbs.pyverbs_error import PyverbsRDMAError
ctx = d.Context(name='rxe_soft0')
pd = PD(ctx)
pid = os.fork()
if pid == 0:
    try:
        PD(ctx)
        os._exit(1)
    except PyverbsRDMAError as x:
        if x.error_code != 5:
            os._exit(2)
    own = PD(d.Context(name='rxe_soft0'))
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
PD(ctx)
import subprocess
subprocess.run(['/bin/true'], close_fds=True, check=True)
PD(ctx)
os.system('true')
PD(ctx)
"#;

#[test]
fn forks() {
    if have("/usr/lib/python3/dist-packages/pyverbs") {
        Fabric::new("fork", true).run(PYTHON, &["-c", FORK]);
    }
}

/// Everything that is not ours behaves as without the library, errno included.
const FOREIGN: &str = r#"
import os, socket, ctypes, glob
libc = ctypes.CDLL(None, use_errno=True)
def errno_of(call, *args):
    ctypes.set_errno(0)
    result = call(*args)
    return result, ctypes.get_errno()
out = []
out.append(errno_of(libc.open, b'/nonexistent/x', 0))
out.append(errno_of(libc.open, None, 0))
out.append(errno_of(libc.access, ctypes.c_void_p(16), 0))
out.append(errno_of(libc.access, ctypes.c_void_p(2**63), 0))
out.append(errno_of(libc.access, b'/etc/passwd', 0))
out.append(errno_of(libc.close, -1))
out.append(errno_of(libc.close, 12345))
out.append(errno_of(libc.write, 12345, b'x', 1))
out.append(errno_of(libc.ioctl, 0, 0xc0181b01, 0)[0] in (-1,))
out.append(errno_of(libc.readlink, b'/etc', None, 0))
out.append(os.stat('/dev/null').st_rdev)
out.append(os.path.realpath('/proc/self/../self/status').endswith('status'))
out.append(sorted(glob.glob('/usr/lib/os-*')))
out.append(open('/etc/hostname').read())
out.append(os.path.exists('/sys/class/infiniband_verbsx'))
f = os.open('/tmp', os.O_TMPFILE | os.O_RDWR, 0o640)
out.append(oct(os.fstat(f).st_mode))
out.append(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).family)
print(out)
"#;

#[test]
fn others_are_left_alone() {
    let fabric = Fabric::new("foreign", false);
    let with = fabric.run(PYTHON, &["-c", FOREIGN]);
    let without = std::process::Command::new(PYTHON)
        .args(["-c", FOREIGN])
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert_eq!(with, common::text(PYTHON, &without));
    assert!(
        !fabric.tree().exists(),
        "nothing was set up for a program that never looked"
    );
}

#[test]
fn no_directory_no_device() {
    let output = std::process::Command::new("ls")
        .arg("/sys/class/infiniband_verbs/uverbs0/ibdev")
        .env("LD_PRELOAD", common::library())
        .env_remove("GAUDI_SOFT_DIR")
        .output()
        .unwrap();
    assert!(!output.status.success() && !String::from_utf8_lossy(&output.stderr).contains("gaudi"));
}

#[test]
fn rdma_netlink_is_refused() {
    let script = "import socket, errno\ntry:\n socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 20)\nexcept OSError as e:\n print(e.errno == errno.EPROTONOSUPPORT)";
    assert_eq!(
        Fabric::new("netlink", false).run(PYTHON, &["-c", script]),
        "True\n"
    );
}

#[test]
fn other_programs_work() {
    let fabric = Fabric::new("others", false);
    assert_eq!(
        fabric.run(
            "bash",
            &[
                "-c",
                "x=$(echo a | cat); (echo $x) > /dev/null; echo $x; ls / > /dev/null"
            ]
        ),
        "a\n"
    );
    assert_eq!(
        fabric.run(
            "perl",
            &[
                "-e",
                "open(F, '<', '/etc/passwd') or die; print scalar(<F>) ? 1 : 0"
            ]
        ),
        "1"
    );
    fabric.run(
        "find",
        &["/usr/share/doc", "-maxdepth", "1", "-newer", "/etc/passwd"],
    );
}
