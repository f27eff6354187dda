//! The fabric file for those who only look: read by pread(2), so that nothing in it, and nobody who cuts it, can harm the reader.

use super::Fd;
use super::fabric_file::{
    CTX_SIZE, CTXS_AT, FILE_SIZE, FabricFile, MAGIC, MAX_ASIDS, MAX_DEVICES, MAX_PORTS, MAX_PROCS,
    MAX_QPS, NOTES_AT, Owner, PORT_HEAD, PROC_SIZE, PROCS_AT, QP_SIZE, VERSION, layout_hash, state,
};
use crate::{Errno, Result};
use rustix::fs::{Mode, OFlags, openat};
use std::os::fd::AsFd;

/// Records that one call reads.
const CHUNK: u32 = 256;

pub(crate) struct FabricReader {
    fd: Fd,
    pub(crate) devices: u32,
    pub(crate) ports: u32,
    pub(crate) strict: bool,
    pub(crate) retry_limit_ms: u32,
    pub(crate) rxe: bool,
}

/// A process that has attached itself.
pub(crate) struct ProcLine {
    pub(crate) owner: Owner,
    pub(crate) pid: u32,
    pub(crate) start_time: u64,
    pub(crate) pid_ns: u64,
    pub(crate) waiting_for: u32,
    pub(crate) comm: String,
}

pub(crate) struct CtxLine {
    pub(crate) asid: u32,
    pub(crate) owner: Owner,
    pub(crate) ports_mask: u64,
}

pub(crate) struct QpLine {
    pub(crate) qpn: u32,
    pub(crate) state: u64,
    pub(crate) generation: u32,
    pub(crate) syndrome: u32,
    pub(crate) res: [u64; 4],
    pub(crate) req: [u64; 16],
    pub(crate) sent: [u64; 3],
    pub(crate) notes: [u64; 5],
}

/// Words of one record; what is not there is zero.
struct Words<'a>(&'a [u8]);

impl Words<'_> {
    fn at(&self, offset: u64) -> u64 {
        let from = offset as usize;
        let bytes = self.0.get(from..from + 8).and_then(|b| b.try_into().ok());
        bytes.map_or(0, u64::from_le_bytes)
    }
    fn many<const N: usize>(&self, offset: u64) -> [u64; N] {
        std::array::from_fn(|i| self.at(offset + 8 * i as u64))
    }
}

impl FabricReader {
    /// ENOENT: there is none. EINVAL: not a fabric file of this build.
    pub(crate) fn open(dir: impl AsFd) -> Result<FabricReader> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = Fd::new(openat(dir, "fabric.shm", flags, Mode::empty())?);
        let size = rustix::fs::fstat(&fd)?.st_size;
        let mut reader = FabricReader {
            fd,
            devices: 0,
            ports: 0,
            strict: false,
            retry_limit_ms: 0,
            rxe: false,
        };
        let head = reader.read(0, 64)?;
        let [magic, version, layout, devices, ports, strict, retry, rxe] = Words(&head).many(0);
        let fits = (magic, version, layout) == (MAGIC, u64::from(VERSION), layout_hash())
            && u64::try_from(size) == Ok(FILE_SIZE)
            && (1..=u64::from(MAX_DEVICES)).contains(&devices)
            && (1..=u64::from(MAX_PORTS)).contains(&ports);
        if !fits {
            return Err(Errno::EINVAL);
        }
        (reader.devices, reader.ports) = (devices as u32, ports as u32);
        (reader.strict, reader.rxe) = (strict != 0, rxe != 0);
        reader.retry_limit_ms = retry as u32;
        Ok(reader)
    }

    /// `len` bytes from `at`; zeroes where the file has none.
    fn read(&self, at: u64, len: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len as usize];
        let mut done = 0;
        while let Some(rest) = bytes.get_mut(done..).filter(|r| !r.is_empty()) {
            match rustix::io::pread(&self.fd, rest, at + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(bytes)
    }

    fn word32(&self, at: u64) -> Result<u32> {
        let bytes = self.read(at, 4)?;
        Ok(bytes.try_into().map_or(0, u32::from_le_bytes))
    }

    /// `each` record from number `from` to `end`.
    fn records(
        &self,
        base: u64,
        size: u64,
        from: u32,
        end: u32,
        mut each: impl FnMut(u32, Words<'_>),
    ) -> Result<()> {
        let mut first = from;
        while first < end {
            let n = (end - first).min(CHUNK);
            let bytes = self.read(base + u64::from(first) * size, u64::from(n) * size)?;
            for (i, record) in (first..).zip(bytes.chunks_exact(size as usize)) {
                each(i, Words(record));
            }
            first += n;
        }
        Ok(())
    }

    pub(crate) fn processes(&self) -> Result<Vec<ProcLine>> {
        let high = self.word32(PROCS_AT - 8)?.min(MAX_PROCS);
        let mut found = Vec::new();
        self.records(PROCS_AT, PROC_SIZE, 0, high, |slot, w| {
            let word = w.at(0);
            let owner = state::owner(word);
            if state::kind(word) != state::LIVE || owner.slot != slot {
                return;
            }
            let name: [u64; 2] = w.many(40);
            let name: Vec<u8> = name
                .iter()
                .flat_map(|w| w.to_le_bytes())
                .take_while(|b| *b != 0)
                .collect();
            found.push(ProcLine {
                owner,
                pid: w.at(8) as u32,
                start_time: w.at(16),
                pid_ns: w.at(24),
                waiting_for: w.at(56) as u32,
                comm: String::from_utf8_lossy(&name).into_owned(),
            });
        })?;
        Ok(found)
    }

    pub(crate) fn contexts(&self, device: u32) -> Result<Vec<CtxLine>> {
        let high = self.word32(PROCS_AT - 64 + 4 * u64::from(device))?;
        let base = CTXS_AT + u64::from(device * MAX_ASIDS) * CTX_SIZE;
        let mut found = Vec::new();
        self.records(base, CTX_SIZE, 1, high.min(MAX_ASIDS), |asid, w| {
            let word = w.at(0);
            if state::kind(word) == state::LIVE {
                let owner = state::owner(word);
                found.push(CtxLine {
                    asid,
                    owner,
                    ports_mask: w.at(8 + 32),
                });
            }
        })?;
        Ok(found)
    }

    pub(crate) fn qps(&self, device: u32, port: u32) -> Result<Vec<QpLine>> {
        let base = FabricFile::port_at(device, port);
        let high = self.word32(base)?.min(MAX_QPS);
        let mut found = Vec::new();
        self.records(base + PORT_HEAD, QP_SIZE, 1, high, |qpn, w| {
            if super::fabric_file::qp_state::asid(w.at(0)) == 0 {
                return;
            }
            found.push(QpLine {
                qpn,
                state: w.at(0),
                generation: w.at(8) as u32,
                syndrome: (w.at(8) >> 32) as u32,
                res: w.many(16),
                req: w.many(64),
                sent: w.many(192),
                notes: w.many(NOTES_AT),
            });
        })?;
        Ok(found)
    }

    /// What QPs that are gone have sent from and to a port.
    pub(crate) fn totals(&self, device: u32, port: u32) -> Result<([u64; 3], [u64; 3])> {
        let bytes = self.read(FabricFile::port_at(device, port), 192)?;
        Ok((Words(&bytes).many(64), Words(&bytes).many(128)))
    }
}
