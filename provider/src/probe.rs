//! Which layouts a libibverbs was built with. The provider ABI number does not tell: 34 covers three op tables and three QP
//! layouts, 59 two op tables. Both probes call exported functions and touch only memory of ours.

use crate::optable;
use core::ffi::c_void;

/// `struct ibv_qp_ex *ibv_qp_to_qp_ex(struct ibv_qp *)`
pub(crate) type QpToQpEx = unsafe extern "C" fn(*mut c_void) -> *mut c_void;
/// `void verbs_set_ops(struct verbs_context *, const struct verbs_context_ops *)`
pub(crate) type SetOps = unsafe extern "C" fn(*mut c_void, *const c_void);

/// Larger than any struct the probed functions touch, with room for tables to come.
const WORDS: usize = 512;
const BYTES: usize = WORDS * size_of::<usize>();

/// What differs between releases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) slots: usize,
    /// `sizeof(struct verbs_context)`, whose tail is the `ibv_context`.
    pub(crate) context_size: usize,
    /// Offset of `verbs_qp.comp_mask`.
    pub(crate) qp_comp_mask: usize,
    /// Bytes of `struct ibv_port_attr` that every program of this library has room for: 49 appended four, and within ABI 34
    /// nothing else changed with it.
    pub(crate) port_attr: usize,
}

impl Layout {
    /// `None` for layouts that no known release has.
    pub(crate) fn find(abi: u32, qp_to_qp_ex: QpToQpEx, set_ops: SetOps) -> Option<Layout> {
        let slots = op_slots(set_ops)?;
        let &(_, context_size) = optable::KNOWN.iter().find(|&&(n, _)| n == slots)?;
        let qp_comp_mask = qp_comp_mask(qp_to_qp_ex)?;
        Some(Layout {
            slots,
            context_size,
            qp_comp_mask,
            port_attr: if abi == 34 { 52 } else { 56 },
        })
    }

    /// Offset of the `ibv_context` in the `verbs_context`.
    pub(crate) fn context_offset(&self) -> usize {
        self.context_size - size_of::<crate::abi::IbvContext>()
    }
}

/// The library takes a QP for an extended one when bit 1 is set in its `comp_mask`.
fn qp_comp_mask(qp_to_qp_ex: QpToQpEx) -> Option<usize> {
    const VERBS_QP_EX: u32 = 1 << 1;
    let mut found = [344usize, 352, 360].into_iter().filter(|offset| {
        let mut qp = [0u32; BYTES / 4];
        qp[offset / 4] = VERBS_QP_EX;
        // SAFETY: `qp` is longer than any known `verbs_qp` and the function only reads it.
        let ex = unsafe { qp_to_qp_ex(qp.as_mut_ptr().cast()) };
        !ex.is_null()
    });
    let offset = found.next()?;
    found.next().is_none().then_some(offset)
}

/// `verbs_set_ops` copies each slot that is not zero into the library's private part, whose address it takes from the
/// context. Every word of our fake context is the address of our fake private part, and slot i holds i + 1.
fn op_slots(set_ops: SetOps) -> Option<usize> {
    let mut private = Box::new([0usize; WORDS]);
    let address = private.as_mut_ptr();
    let mut context = Box::new([address; WORDS]);
    let table: [usize; WORDS] = core::array::from_fn(|slot| slot + 1);
    // SAFETY: all three are longer than the structs the function knows; it stores to the first two only, no stored value is
    // ever called.
    unsafe { set_ops(context.as_mut_ptr().cast(), table.as_ptr().cast()) };
    let private: Vec<usize> = (0..WORDS)
        .map(|i| {
            let word = address.wrapping_add(i);
            // SAFETY: inside `private`, which lives to the end; volatile, since foreign code wrote it through a copy of the address.
            unsafe { word.read_volatile() }
        })
        .collect();
    let first = private.iter().position(|&w| w != 0)?;
    let slots = private.iter().filter(|&&w| w != 0).count();
    let in_order = private[first..]
        .iter()
        .take(slots)
        .enumerate()
        .all(|(i, &w)| w == i + 1);
    in_order.then_some(slots)
}
