//! What arrives when nothing faults, and in what order.

mod support;

use gaudi_usercopy::{cas_u64, cas16, fetch_add_u64, has_cas16, install, load_u64, store_u64};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use support::{Pages, copy};

#[test]
fn every_length_and_offset() {
    install().unwrap();
    let source: Vec<u8> = (0..8192u32).map(|i| (i * 7 + i / 251) as u8).collect();
    let lengths = (0..=300).chain([
        511, 512, 513, 1000, 1023, 1024, 1031, 1032, 1033, 1040, 2048, 4096, 5000,
    ]);
    for len in lengths {
        for src_offset in [0, 1, 3, 4, 8, 13, 31] {
            for dst_offset in [0, 1, 2, 5, 8, 12, 24, 33] {
                let mut target = vec![0xee; dst_offset + len + 64];
                copy(
                    target[dst_offset..].as_mut_ptr(),
                    source[src_offset..].as_ptr(),
                    len,
                )
                .unwrap();
                assert!(
                    target[..dst_offset].iter().all(|&b| b == 0xee),
                    "len {len}: wrote in front"
                );
                assert_eq!(
                    &target[dst_offset..][..len],
                    &source[src_offset..][..len],
                    "len {len}"
                );
                assert!(
                    target[dst_offset + len..].iter().all(|&b| b == 0xee),
                    "len {len}: wrote behind"
                );
            }
        }
    }
}

#[test]
fn atomics() {
    install().unwrap();
    let mut cell = 5u64;
    let p = &raw mut cell;
    // SAFETY: a local of ours.
    assert_eq!(unsafe { load_u64(p) }, Ok(5));
    // SAFETY: as above.
    assert_eq!(unsafe { store_u64(p, u64::MAX) }, Ok(()));
    // SAFETY: as above.
    assert_eq!(unsafe { fetch_add_u64(p, 3) }, Ok(u64::MAX));
    // SAFETY: as above.
    assert_eq!(unsafe { cas_u64(p, 9, 1) }, Ok(2));
    // SAFETY: as above.
    assert_eq!(unsafe { cas_u64(p, 2, 77) }, Ok(2));
    // SAFETY: as above.
    assert_eq!(unsafe { load_u64(p) }, Ok(77));
    let odd = p.cast::<u8>().wrapping_add(4).cast::<u64>();
    // SAFETY: an unaligned address is refused before the access.
    assert!(unsafe { load_u64(odd) }.is_err());
    // SAFETY: as above.
    assert!(unsafe { store_u64(odd, 0) }.is_err());
    // SAFETY: as above.
    assert!(unsafe { cas_u64(odd, 0, 0) }.is_err());
    // SAFETY: as above.
    assert!(unsafe { fetch_add_u64(odd, 0) }.is_err());
}

#[test]
fn sixteen_bytes_at_once() {
    assert!(has_cas16());
    #[repr(align(16))]
    struct Cell([u64; 2]);
    let mut cell = Cell([1, 2]);
    let p = &raw mut cell.0;
    // SAFETY: aligned and ours.
    assert_eq!(unsafe { cas16(p, [1, 3], [9, 9]) }, Err([1, 2]));
    // SAFETY: as above.
    assert_eq!(unsafe { cas16(p, [1, 2], [7, 8]) }, Ok(()));
    // SAFETY: as above.
    assert_eq!(unsafe { cas16(p, [7, 8], [3, 4]) }, Ok(()));
    assert_eq!(cell.0, [3, 4]);
}

#[test]
fn sixteen_byte_counter_loses_nothing() {
    const ROUNDS: u64 = 50_000;
    let pages = Pages::new(1);
    let address = pages.start as usize;
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(move || {
                let p = address as *mut [u64; 2];
                let mut seen = [0, 0];
                for _ in 0..ROUNDS {
                    loop {
                        // SAFETY: an aligned page that lives as long as the scope.
                        match unsafe { cas16(p, seen, [seen[0] + 1, seen[1] + 2]) } {
                            Ok(()) => break,
                            Err(current) => seen = current,
                        }
                        assert_eq!(seen[1], 2 * seen[0]);
                    }
                }
            });
        }
    });
    // SAFETY: the threads are gone.
    assert_eq!(unsafe { load_u64(pages.word(0)) }, Ok(3 * ROUNDS));
}

/// Whoever polls the last aligned word finds everything in front of it.
#[test]
fn last_word_is_last() {
    install().unwrap();
    for len in [16, 24, 40, 48, 64, 72, 200, 512, 1024, 4096] {
        let pages = Pages::new(1);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1..=20_000u64 {
                    let message = vec![round; len / 8];
                    copy(pages.at(0), message.as_ptr().cast(), len).unwrap();
                }
                stop.store(true, SeqCst);
            });
            while !stop.load(SeqCst) {
                // SAFETY: the page lives as long as the scope.
                let last = unsafe { load_u64(pages.word(len - 8)) }.unwrap();
                for at in (0..len - 8).step_by(8) {
                    // SAFETY: as above.
                    let word = unsafe { load_u64(pages.word(at)) }.unwrap();
                    assert!(
                        word >= last,
                        "len {len}: word at {at} is older than the last"
                    );
                }
            }
        });
    }
}
