"""Makes and destroys every object that an RC or UD program needs, by pyverbs; argument: the device's name."""

import sys

import pyverbs.enums as e
from pyverbs.addr import AH, AHAttr, GlobalRoute
from pyverbs.cq import CQ, CompChannel
from pyverbs.device import Context
from pyverbs.mr import MR
from pyverbs.pd import PD
from pyverbs.pyverbs_error import PyverbsRDMAError
from pyverbs.qp import QP, QPAttr, QPCap, QPInitAttr
from pyverbs.srq import SRQ, SrqAttr, SrqInitAttr

name = sys.argv[1]
rxe = name.startswith("rxe")


def attempt(what, make):
    """Objects of later versions may be refused, but only as "not supported"."""
    try:
        return make()
    except PyverbsRDMAError as error:
        if not rxe and error.error_code in (38, 95):
            print(what, "is not supported yet")
            return None
        raise


for _ in range(3):
    with Context(name=name) as ctx:
        port = ctx.query_port(1)
        assert port.state == e.IBV_PORT_ACTIVE and port.link_layer == e.IBV_LINK_LAYER_ETHERNET
        device = ctx.query_device()
        assert device.phys_port_cnt == 1 and device.max_qp > 0 and device.max_mr > 0
        gid = ctx.query_gid(1, 0)
        assert gid.gid != "0000:" * 7 + "0000"
        assert ctx.query_pkey(1, 0) == 0xFFFF or ctx.query_pkey(1, 0) == -1
        with PD(ctx) as pd:
            mr = MR(pd, 100000, e.IBV_ACCESS_LOCAL_WRITE | e.IBV_ACCESS_REMOTE_WRITE)
            mr.write("bytes", 5)
            assert mr.read(5, 0) == b"bytes" and mr.lkey and mr.rkey
            channel = CompChannel(ctx)
            cq = CQ(ctx, 100, None, channel, 0)
            other = CQ(ctx, 10)
            cq.req_notify()
            init = QPInitAttr(qp_type=e.IBV_QPT_RC, scq=cq, rcq=other, cap=QPCap(max_send_wr=16, max_recv_wr=16))
            qp = QP(pd, init, QPAttr(port_num=1))
            assert qp.qp_num > 0
            attr, _ = qp.query(e.IBV_QP_STATE)
            assert attr.qp_state == e.IBV_QPS_INIT, attr.qp_state
            route = GlobalRoute(dgid=gid, sgid_index=0)
            ah_attr = AHAttr(gr=route, is_global=1, port_num=1)
            rtr = QPAttr(port_num=1)
            rtr.dest_qp_num = qp.qp_num
            rtr.path_mtu = e.IBV_MTU_1024
            rtr.max_rd_atomic = 1
            rtr.max_dest_rd_atomic = 1
            rtr.min_rnr_timer = 12
            rtr.timeout = 14
            rtr.retry_cnt = 7
            rtr.rnr_retry = 7
            rtr.ah_attr = ah_attr
            qp.to_rts(rtr)
            attr, _ = qp.query(e.IBV_QP_STATE)
            assert attr.qp_state == e.IBV_QPS_RTS, attr.qp_state
            ah = attempt("AH", lambda: AH(pd, attr=ah_attr))
            srq = attempt("SRQ", lambda: SRQ(pd, SrqInitAttr(SrqAttr(max_wr=16, max_sge=1))))
            ud = attempt("UD", lambda: QP(pd, QPInitAttr(qp_type=e.IBV_QPT_UD, scq=cq, rcq=cq, cap=QPCap(max_send_wr=16, max_recv_wr=16)), QPAttr(port_num=1)))
            for thing in (ud, srq, ah, qp, cq, other, channel, mr):
                if thing is not None:
                    thing.close()
print("ok")
