//! The context's verbs of SRQs and XRC domains.

use super::context::Context;
use super::engine::Engine;
use super::types::{QpInfo, Result, SrqAttr, SrqInfo, SrqInit};

impl Context {
    pub fn create_srq(&self, init: &SrqInit) -> Result<SrqInfo> {
        self.with(|e| e.create_srq(init))
    }

    pub fn modify_srq(&self, srq: u32, max_wr: Option<u32>, limit: Option<u32>) -> Result<()> {
        self.with(|e| e.modify_srq(srq, max_wr, limit))
    }

    pub fn query_srq(&self, srq: u32) -> Result<SrqAttr> {
        self.with(|e| e.query_srq(srq))
    }

    /// `cookie`: events of it that the program has not taken yet are taken back.
    pub fn destroy_srq(&self, srq: u32, cookie: u64) -> Result<u32> {
        self.with(|e| e.destroy_srq(srq))?;
        Ok(self.forget_events(cookie))
    }

    /// `file`: device and inode of the descriptor that the domain is opened with.
    pub fn open_xrcd(
        &self,
        file: Option<(u64, u64)>,
        create: bool,
        exclusive: bool,
    ) -> Result<u32> {
        self.with(|e: &mut Engine<_>| e.open_xrcd(file, create, exclusive))
    }

    pub fn close_xrcd(&self, domain: u32) -> Result<()> {
        self.with(|e| e.close_xrcd(domain))
    }

    /// Another handle on an XRC receive QP.
    pub fn open_qp(&self, domain: u32, qp_num: u32, cookie: u64) -> Result<QpInfo> {
        self.with(|e| e.open_qp(domain, qp_num, cookie))
    }
}
