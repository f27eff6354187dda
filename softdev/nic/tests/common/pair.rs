//! Two contexts with a connection between them.

use super::*;

pub struct Pair {
    pub _dir: tempfile::TempDir,
    pub a: Node,
    pub b: Node,
    pub qa: Qp,
    pub qb: Qp,
}

pub fn pair_with(device_b: u32, cq: u32, n: u32) -> Pair {
    let dir = tempfile::tempdir().unwrap();
    let opts = options(dir.path());
    let (a, b) = (
        Node::with_cq(&opts, 0, cq),
        Node::with_cq(&opts, device_b, cq),
    );
    let (mut qa, mut qb) = (a.alloc(), b.alloc());
    a.connect(&mut qa, b.address(&qb), n);
    b.connect(&mut qb, a.address(&qa), n);
    Pair {
        _dir: dir,
        a,
        b,
        qa,
        qb,
    }
}

pub fn pair() -> Pair {
    pair_with(0, 512, 16)
}
