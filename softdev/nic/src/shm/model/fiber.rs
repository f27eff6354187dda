//! Threads of an exploration as contexts of one thread (makecontext(3)): a change costs a fraction of a microsecond on a machine however busy.

use std::ptr::null_mut;

const STACK: usize = 256 << 10;

/// Where contexts stop and go on. Addresses of it must not change while one of them runs.
pub(super) struct Fibers {
    home: Box<libc::ucontext_t>,
    all: Vec<(Box<libc::ucontext_t>, Vec<u8>)>,
}

fn empty() -> Box<libc::ucontext_t> {
    // SAFETY: plain data for C, filled by getcontext(3) before use.
    Box::new(unsafe { std::mem::zeroed() })
}

/// Function and argument of a context, by pointer: makecontext(3) passes ints only.
pub(super) struct Entry<'a> {
    pub(super) run: &'a dyn Fn(usize),
    pub(super) me: usize,
}

extern "C" fn enter(low: u32, high: u32) {
    let at = (u64::from(low) | u64::from(high) << 32) as *const Entry<'_>;
    // SAFETY: made from a reference by `prepare`, whose caller keeps it until the context has ended.
    let entry = unsafe { &*at };
    (entry.run)(entry.me);
    unreachable!("goes home and never comes back");
}

impl Fibers {
    pub(super) fn new(count: usize) -> Fibers {
        Fibers {
            home: empty(),
            all: (0..count).map(|_| (empty(), vec![0; STACK])).collect(),
        }
    }

    /// The context begins anew with `entry`, which must live until it has ended or is never gone to again.
    pub(super) fn prepare(&mut self, which: usize, entry: &Entry<'_>) {
        let (context, stack) = &mut self.all[which];
        let context: *mut libc::ucontext_t = &mut **context;
        // SAFETY: points to a context of ours.
        unsafe { libc::getcontext(context) };
        // SAFETY: as above, and nobody else has it.
        let fields = unsafe { &mut *context };
        fields.uc_stack.ss_sp = stack.as_mut_ptr().cast();
        fields.uc_stack.ss_size = STACK;
        fields.uc_link = null_mut();
        let at = std::ptr::from_ref(entry) as u64;
        // SAFETY: called back by makecontext with the two arguments that follow.
        let f = unsafe { std::mem::transmute::<extern "C" fn(u32, u32), extern "C" fn()>(enter) };
        // SAFETY: the context has a stack of its own.
        unsafe { libc::makecontext(context, f, 2, at as u32, (at >> 32) as u32) };
    }

    /// Runs a context until it goes home.
    ///
    /// # Safety
    /// `this` is valid, and no reference to it is used during the call.
    pub(super) unsafe fn go(this: *mut Fibers, which: usize) {
        // SAFETY: as promised.
        let fibers = unsafe { &mut *this };
        let home: *mut libc::ucontext_t = &mut *fibers.home;
        let to: *const libc::ucontext_t = &*fibers.all[which].0;
        // SAFETY: the context was prepared or has gone home before.
        unsafe { libc::swapcontext(home, to) };
    }

    /// Back to whoever called [`Fibers::go`].
    ///
    /// # Safety
    /// As of `go`; called by the context that runs.
    pub(super) unsafe fn home(this: *mut Fibers, which: usize) {
        // SAFETY: as promised.
        let fibers = unsafe { &mut *this };
        let from: *mut libc::ucontext_t = &mut *fibers.all[which].0;
        let home: *const libc::ucontext_t = &*fibers.home;
        // SAFETY: `go` has filled it.
        unsafe { libc::swapcontext(from, home) };
    }
}
