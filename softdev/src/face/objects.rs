//! The object table of one open verbs device: handles, what each object refers to, and who refers to it.

use super::channel::Channel;
use gaudi_softnic::{Errno, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// More than any program makes; bounds what a broken one can allocate.
const MAX_OBJECTS: usize = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Pd,
    Cq,
    Qp,
    Srq,
    Ah,
    Mr,
    Mw,
    Xrcd,
    UsrFifo,
    Encap,
}

#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) kind: Kind,
    /// What the program wants to see in events.
    pub(crate) user_handle: u64,
    /// Objects that this one keeps alive.
    holds: Vec<u32>,
    /// How many objects hold this one.
    refs: u32,
    /// Completion channel of a CQ.
    pub(crate) channel: Option<Arc<Channel>>,
}

/// Handles are the lowest free number, in one space for all kinds, as the kernel's.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    table: BTreeMap<u32, Object>,
    freed: BTreeSet<u32>,
    next: u32,
}

/// What a lookup of a wrong handle says; depends on the dialect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Missing(pub(crate) Errno);

/// The attributes of the native ioctl and all destroy commands.
pub(crate) const ENOENT: Missing = Missing(Errno::ENOENT);
/// Handles inside the command structs.
pub(crate) const EINVAL: Missing = Missing(Errno::EINVAL);

impl Objects {
    pub(crate) fn insert(
        &mut self,
        kind: Kind,
        user_handle: u64,
        holds: Vec<u32>,
        channel: Option<Arc<Channel>>,
    ) -> Result<u32> {
        if self.table.len() >= MAX_OBJECTS {
            return Err(Errno::ENOMEM);
        }
        let handle = self.freed.pop_first().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        });
        for held in &holds {
            if let Some(object) = self.table.get_mut(held) {
                object.refs += 1;
            }
        }
        self.table.insert(
            handle,
            Object {
                kind,
                user_handle,
                holds,
                refs: 0,
                channel,
            },
        );
        Ok(handle)
    }

    pub(crate) fn get(&self, kind: Kind, handle: u32, missing: Missing) -> Result<&Object> {
        let object = self.table.get(&handle).ok_or(missing.0)?;
        if object.kind == kind {
            Ok(object)
        } else {
            Err(Errno::EINVAL)
        }
    }

    /// EBUSY while another object refers to this one.
    pub(crate) fn check_destroy(&self, kind: Kind, handle: u32, missing: Missing) -> Result<()> {
        if self.get(kind, handle, missing)?.refs > 0 {
            Err(Errno::EBUSY)
        } else {
            Ok(())
        }
    }

    pub(crate) fn remove(&mut self, handle: u32) -> Option<Object> {
        let object = self.table.remove(&handle)?;
        for held in &object.holds {
            if let Some(object) = self.table.get_mut(held) {
                object.refs = object.refs.saturating_sub(1);
            }
        }
        self.freed.insert(handle);
        Some(object)
    }

    /// Replaces one reference by another (an MR that moves to another PD).
    pub(crate) fn rehold(&mut self, handle: u32, old_kind: Kind, new: u32) {
        let Some(holds) = self.table.get(&handle).map(|object| object.holds.clone()) else {
            return;
        };
        let old = holds
            .iter()
            .position(|held| self.table.get(held).is_some_and(|o| o.kind == old_kind));
        let Some(old_handle) = old.and_then(|at| holds.get(at).copied()) else {
            return;
        };
        if let Some(object) = self.table.get_mut(&old_handle) {
            object.refs = object.refs.saturating_sub(1);
        }
        if let Some(object) = self.table.get_mut(&new) {
            object.refs += 1;
        }
        if let Some(slot) = self
            .table
            .get_mut(&handle)
            .and_then(|o| o.holds.iter_mut().find(|held| **held == old_handle))
        {
            *slot = new;
        }
    }

    /// Users before what they use, which is the order in which everything can be destroyed.
    pub(crate) fn teardown_order(&self) -> Vec<(u32, Kind)> {
        let rank = |kind: Kind| match kind {
            Kind::Qp | Kind::Ah | Kind::Mw | Kind::UsrFifo | Kind::Encap => 0,
            Kind::Mr | Kind::Srq => 1,
            Kind::Cq | Kind::Xrcd => 2,
            Kind::Pd => 3,
        };
        let mut order: Vec<_> = self
            .table
            .iter()
            .map(|(&handle, object)| (handle, object.kind))
            .collect();
        order.sort_by_key(|&(handle, kind)| (rank(kind), handle));
        order
    }

    pub(crate) fn count(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn handles(&self, kind: Kind) -> Vec<u32> {
        self.table
            .iter()
            .filter(|(_, object)| object.kind == kind)
            .map(|(&handle, _)| handle)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_and_references() {
        let mut objects = Objects::default();
        let pd = objects.insert(Kind::Pd, 0, vec![], None).unwrap();
        let cq = objects.insert(Kind::Cq, 7, vec![], None).unwrap();
        let qp = objects.insert(Kind::Qp, 8, vec![pd, cq, cq], None).unwrap();
        assert_eq!((pd, cq, qp), (0, 1, 2));
        assert_eq!(
            objects.check_destroy(Kind::Pd, pd, ENOENT),
            Err(Errno::EBUSY)
        );
        assert_eq!(
            objects.check_destroy(Kind::Pd, cq, ENOENT),
            Err(Errno::EINVAL)
        );
        assert_eq!(
            objects.check_destroy(Kind::Pd, 9, ENOENT),
            Err(Errno::ENOENT)
        );
        assert_eq!(
            objects.check_destroy(Kind::Pd, 9, EINVAL),
            Err(Errno::EINVAL)
        );
        objects.remove(qp);
        assert_eq!(objects.check_destroy(Kind::Cq, cq, ENOENT), Ok(()));
        objects.remove(pd);
        assert_eq!(objects.insert(Kind::Ah, 0, vec![], None).unwrap(), pd);
        assert_eq!(objects.count(), 2);
    }

    #[test]
    fn an_mr_can_change_its_pd() {
        let mut objects = Objects::default();
        let a = objects.insert(Kind::Pd, 0, vec![], None).unwrap();
        let b = objects.insert(Kind::Pd, 0, vec![], None).unwrap();
        let mr = objects.insert(Kind::Mr, 0, vec![a], None).unwrap();
        objects.rehold(mr, Kind::Pd, b);
        assert_eq!(objects.check_destroy(Kind::Pd, a, ENOENT), Ok(()));
        assert_eq!(
            objects.check_destroy(Kind::Pd, b, ENOENT),
            Err(Errno::EBUSY)
        );
        objects.remove(mr);
        assert_eq!(objects.check_destroy(Kind::Pd, b, ENOENT), Ok(()));
    }
}
