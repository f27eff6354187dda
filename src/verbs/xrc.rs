//! XRC domains. A domain belongs to one context: a descriptor finds the same domain again in that context; other processes that
//! open the same file have one of their own.

use super::engine::{Engine, limits, slot_of};
use super::srq::Source;
use super::types::{Errno, QpInfo, Result};
use crate::native::Nic;
use kernel_abi::verbs::qpt;

#[derive(Debug)]
pub struct Xrcd {
    /// Device and inode of the file that it was opened with.
    pub file: Option<(u64, u64)>,
    /// How often it is open.
    opens: u32,
    /// SRQs and QPs in it.
    pub users: u32,
}

impl<N: Nic> Engine<N> {
    pub(super) fn xrcd(&mut self, domain: u32) -> Result<&mut Xrcd> {
        self.xrcds
            .get_mut(domain as usize)
            .and_then(Option::as_mut)
            .ok_or(Errno::EINVAL)
    }

    /// As the kernel judges (uverbs OPEN_XRCD): EAGAIN when there is none and none may be made, EINVAL when there must be none.
    pub fn open_xrcd(
        &mut self,
        file: Option<(u64, u64)>,
        create: bool,
        exclusive: bool,
    ) -> Result<u32> {
        let known = file.and_then(|f| {
            let open = |d: &Option<Xrcd>| d.as_ref().is_some_and(|d| d.file == Some(f));
            self.xrcds.iter().position(open)
        });
        if let Some(i) = known {
            if exclusive {
                return Err(Errno::EINVAL);
            }
            if let Some(d) = &mut self.xrcds[i] {
                d.opens += 1;
            }
            return Ok(i as u32);
        }
        if file.is_some() && !create {
            return Err(Errno::EAGAIN);
        }
        let i = slot_of(&mut self.xrcds, limits::MAX_XRCD)?;
        self.xrcds[i] = Some(Xrcd {
            file,
            opens: 1,
            users: 0,
        });
        Ok(i as u32)
    }

    pub fn close_xrcd(&mut self, domain: u32) -> Result<()> {
        let d = self.xrcd(domain)?;
        if d.opens > 1 {
            d.opens -= 1;
            return Ok(());
        }
        if d.users != 0 {
            return Err(Errno::EBUSY);
        }
        self.xrcds[domain as usize] = None;
        Ok(())
    }

    /// Another handle on an XRC receive QP of this context, whose asynchronous events go to `cookie` too.
    pub fn open_qp(&mut self, domain: u32, qp_num: u32, cookie: u64) -> Result<QpInfo> {
        let shared = self.xrcd(domain)?.file.is_some();
        let found = self
            .qps
            .iter_mut()
            .flatten()
            .find(|q| q.qp_type == qpt::XRC_TGT && q.number() == qp_num);
        match found {
            Some(qp) if qp.source == Some(Source::Domain(domain)) => {
                qp.openers.push(cookie);
                Ok(QpInfo {
                    handle: qp.handle,
                    qp_num,
                    cap: qp.cap,
                })
            }
            Some(_) => Err(Errno::EINVAL),
            // It may be another process's, which no domain reaches here.
            None if shared => Err(Errno::EOPNOTSUPP),
            None => Err(Errno::EINVAL),
        }
    }

    /// Gives one handle of a QP up: that of `cookie`. The last one destroys it.
    pub fn close_qp(&mut self, handle: u32, cookie: u64) -> Result<()> {
        let qp = self.qp(handle)?;
        if let Some(i) = qp.openers.iter().position(|&c| c == cookie) {
            qp.openers.swap_remove(i);
            return Ok(());
        }
        if let Some(next) = qp.openers.pop() {
            qp.cookie = next;
            return Ok(());
        }
        self.destroy_qp(handle)
    }
}
