//! Two ends on a scripted fabric.

use crate::native::sim::{Fabric, SimNic};
use crate::verbs::engine::Engine;
use crate::verbs::qp::AsyncEvent;
use crate::verbs::types::{
    AhAttr, MrInfo, QpAttr, QpCap, QpInit, SendWr, Sge, SrqInfo, SrqInit, Wc,
};
use kernel_abi::verbs::attr_masks;
use kernel_abi::verbs::{access, qp_attr, qps, qpt, send_flag};

pub(crate) const ALL: u32 =
    access::LOCAL_WRITE | access::REMOTE_WRITE | access::REMOTE_READ | access::REMOTE_ATOMIC;

pub(crate) struct End {
    pub(crate) e: Engine<SimNic>,
    pub(crate) pd: u32,
    pub(crate) cq: u32,
    pub(crate) qp: u32,
    pub(crate) num: u32,
    pub(crate) mem: Vec<u8>,
    pub(crate) mr: MrInfo,
}

impl End {
    pub(crate) fn new(f: &Fabric, device: u8, bytes: usize, wr: u32) -> End {
        let mut end = End::bare(f, device, vec![0u8; bytes], 4096);
        (end.qp, end.num) = end.create(wr);
        end
    }

    /// Without a QP.
    pub(crate) fn bare(f: &Fabric, device: u8, mem: Vec<u8>, cqe: u32) -> End {
        crate::native::user::prepare();
        let mut e = Engine::new(f.nic(device));
        let pd = e.alloc_pd().unwrap();
        let cq = e.create_cq(cqe, Some(7), 0xc0).unwrap().handle;
        let (at, len) = (mem.as_ptr() as u64, mem.len() as u64);
        let mr = e.reg_mr(pd, at, len, at, ALL).unwrap();
        End {
            e,
            pd,
            cq,
            qp: 0,
            num: 0,
            mem,
            mr,
        }
    }

    pub(crate) fn create(&mut self, wr: u32) -> (u32, u32) {
        self.create_as(qpt::RC, wr, None, None)
    }

    pub(crate) fn create_as(
        &mut self,
        qp_type: u32,
        wr: u32,
        srq: Option<u32>,
        xrcd: Option<u32>,
    ) -> (u32, u32) {
        let cap = QpCap {
            max_send_wr: wr,
            max_recv_wr: wr,
            max_send_sge: 4,
            max_recv_sge: 4,
            max_inline_data: 256,
        };
        let init = QpInit {
            pd: self.pd,
            send_cq: self.cq,
            recv_cq: self.cq,
            srq,
            xrcd,
            cap,
            qp_type,
            sq_sig_all: false,
            cookie: 0x99,
        };
        let q = self.e.create_qp(&init).unwrap();
        (q.handle, q.qp_num)
    }

    pub(crate) fn srq(&mut self, max_wr: u32, xrc: Option<(u32, u32)>) -> SrqInfo {
        let init = SrqInit {
            pd: self.pd,
            max_wr,
            max_sge: 2,
            xrc,
            cookie: 0x5109,
        };
        self.e.create_srq(&init).unwrap()
    }

    pub(crate) fn srq_recv(&mut self, srq: u32, wr_id: u64, off: usize, len: usize) {
        let s = [self.sge(off, len)];
        if self.e.post_srq_recv(srq, wr_id, &s).unwrap() {
            self.e.kick_srq(srq);
        }
    }

    /// Takes a QP to RTS, connected with `num` of `device`.
    pub(crate) fn connect(&mut self, qp: u32, device: u8, num: u32) {
        self.init(qp);
        self.rtr(qp, device, num);
        self.rts(qp, 7);
    }

    /// Posts on any QP.
    pub(crate) fn post_on(&mut self, qp: u32, wr: &SendWr<'_>) {
        self.e.post_send(qp, wr).unwrap();
        self.e.kick(qp);
    }

    /// The events of `element` so far.
    pub(crate) fn events(&mut self, element: u64) -> Vec<u32> {
        let of = |e: &AsyncEvent| (e.element == element).then_some(e.event);
        let found = self.e.env.events.iter().filter_map(of).collect();
        self.e.env.events.retain(|e| e.element != element);
        found
    }

    /// The attributes that a transition demands of this QP's type.
    fn needed(&mut self, qp: u32, from: u32, to: u32) -> u32 {
        let qp_type = self.e.qp(qp).unwrap().qp_type;
        attr_masks(from, to, qp_type).unwrap().0 | qp_attr::STATE
    }

    pub(crate) fn init(&mut self, qp: u32) {
        let a = QpAttr {
            qp_state: qps::INIT,
            port_num: 1,
            qp_access_flags: ALL,
            ..QpAttr::default()
        };
        self.e
            .modify_qp(
                qp,
                &a,
                qp_attr::STATE | qp_attr::PORT | qp_attr::PKEY_INDEX | qp_attr::ACCESS_FLAGS,
            )
            .unwrap();
    }

    pub(crate) fn rtr(&mut self, qp: u32, device: u8, num: u32) {
        let mut gid = [0u8; 16];
        (gid[0], gid[15]) = (0xfe, device);
        let mut ah = AhAttr {
            is_global: 1,
            port_num: 1,
            ..AhAttr::default()
        };
        ah.grh.dgid = [
            u64::from_ne_bytes(gid[..8].try_into().unwrap()),
            u64::from_ne_bytes(gid[8..].try_into().unwrap()),
        ];
        let a = QpAttr {
            qp_state: qps::RTR,
            path_mtu: 5,
            dest_qp_num: num,
            ah_attr: ah,
            max_dest_rd_atomic: 4,
            min_rnr_timer: 12,
            ..QpAttr::default()
        };
        let mask = self.needed(qp, qps::INIT, qps::RTR);
        self.e.modify_qp(qp, &a, mask).unwrap();
    }

    pub(crate) fn rts(&mut self, qp: u32, rnr_retry: u8) {
        let a = QpAttr {
            qp_state: qps::RTS,
            timeout: 14,
            retry_cnt: 7,
            rnr_retry,
            max_rd_atomic: 4,
            ..QpAttr::default()
        };
        let mask = self.needed(qp, qps::RTR, qps::RTS);
        self.e.modify_qp(qp, &a, mask).unwrap();
    }

    pub(crate) fn sge(&self, off: usize, len: usize) -> Sge {
        Sge {
            addr: self.mem.as_ptr() as u64 + off as u64,
            length: len as u32,
            lkey: self.mr.lkey,
        }
    }

    pub(crate) fn recv(&mut self, wr_id: u64, off: usize, len: usize) {
        let s = [self.sge(off, len)];
        if self.e.post_recv(self.qp, wr_id, &s).unwrap() {
            self.e.kick(self.qp);
        }
    }

    pub(crate) fn post(&mut self, wr: &SendWr<'_>) {
        self.e.post_send(self.qp, wr).unwrap();
        self.e.kick(self.qp);
    }

    pub(crate) fn send(&mut self, wr_id: u64, opcode: u32, off: usize, len: usize, to: (u64, u32)) {
        let s = [self.sge(off, len)];
        self.post(&wr(wr_id, opcode, &s, to));
    }

    pub(crate) fn poll(&mut self) -> Vec<Wc> {
        let mut v = vec![Wc::default(); 64];
        self.e.native_events();
        let n = self.e.poll_cq(self.cq, &mut v).unwrap();
        v.truncate(n);
        v
    }

    pub(crate) fn at(&self, off: usize) -> u64 {
        self.mem.as_ptr() as u64 + off as u64
    }
}

pub(crate) fn wr<'a>(wr_id: u64, opcode: u32, sges: &'a [Sge], to: (u64, u32)) -> SendWr<'a> {
    SendWr {
        wr_id,
        opcode,
        flags: send_flag::SIGNALED,
        imm: 0x1122_3344,
        remote_addr: to.0,
        rkey: to.1,
        compare_add: 0,
        swap: 0,
        remote_srqn: 0,
        sges,
    }
}

pub(crate) fn pair(f: &Fabric, bytes: usize, depth: u32, rnr_retry: u8) -> (End, End) {
    let (mut a, mut b) = (End::new(f, 1, bytes, depth), End::new(f, 2, bytes, depth));
    let (na, nb) = (a.num, b.num);
    for (x, dev, num) in [(&mut a, 2u8, nb), (&mut b, 1u8, na)] {
        let qp = x.qp;
        x.init(qp);
        x.rtr(qp, dev, num);
        x.rts(qp, rnr_retry);
    }
    (a, b)
}

/// Polls both ends until `n` completions have come to A and `m` to B.
pub(crate) fn collect(a: &mut End, b: &mut End, n: usize, m: usize) -> (Vec<Wc>, Vec<Wc>) {
    let (mut va, mut vb) = (Vec::new(), Vec::new());
    for _ in 0..10_000 {
        va.extend(a.poll());
        vb.extend(b.poll());
        if va.len() >= n && vb.len() >= m {
            break;
        }
    }
    assert_eq!((va.len(), vb.len()), (n, m), "{va:?} {vb:?}");
    (va, vb)
}
