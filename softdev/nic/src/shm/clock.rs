//! Time.

/// Monotonic clock in microseconds; never 0.
pub(crate) fn now_us() -> u64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    (t.tv_sec as u64 * 1_000_000 + t.tv_nsec as u64 / 1000).max(1)
}
