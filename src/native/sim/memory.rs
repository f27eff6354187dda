//! Mailboxes, used again: model checks connect millions of times, and want the same addresses each time.

use crate::native::{MAILBOX_BYTES, Window};
use std::cell::RefCell;
use std::ptr::NonNull;

thread_local! {
    static FREE: RefCell<Vec<Window>> = const { RefCell::new(Vec::new()) };
}

/// A mailbox of zeros.
pub(super) fn mailbox() -> Window {
    let used = FREE.with_borrow_mut(Vec::pop);
    if let Some(w) = used {
        w.zero(0, w.len());
        return w;
    }
    let bytes = vec![0u128; MAILBOX_BYTES / 16].leak();
    let base = NonNull::new(bytes.as_mut_ptr().cast::<u8>()).unwrap();
    // SAFETY: leaked for the life of the test, 16-byte aligned.
    unsafe { Window::new(base, MAILBOX_BYTES) }
}

/// The next fabric of this thread gets them in the same order.
pub(super) fn give_back(list: &mut Vec<Window>) {
    // A thread that is ending keeps nothing.
    let _ = FREE.try_with(|f| {
        if let Ok(mut f) = f.try_borrow_mut() {
            f.extend(list.drain(..).rev());
        }
    });
}
