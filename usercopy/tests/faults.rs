//! Every way in which memory can be missing gives an error.

mod support;

use gaudi_usercopy::{
    cas_u64, fetch_add_u64, install, load_u64, probe_read, probe_write, store_u64,
};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use support::{PAGE, Pages, copy, truncate};

const LENGTHS: [usize; 16] = [1, 2, 3, 4, 5, 7, 8, 9, 17, 33, 64, 72, 100, 700, 1032, 4000];

fn nothing_works(p: *mut u8) {
    let mut buffer = [0u8; PAGE];
    for len in LENGTHS {
        assert!(copy(p, buffer.as_ptr(), len).is_err(), "write of {len}");
        assert!(copy(buffer.as_mut_ptr(), p, len).is_err(), "read of {len}");
    }
    let word = p.cast::<u64>();
    // SAFETY: nothing lies there.
    assert!(unsafe { load_u64(word) }.is_err());
    // SAFETY: as above.
    assert!(unsafe { probe_read(p, 1) }.is_err());
    nothing_writes(p);
}

fn nothing_writes(p: *mut u8) {
    let buffer = [0u8; PAGE];
    for len in LENGTHS {
        assert_eq!(
            copy(p, buffer.as_ptr(), len).unwrap_err().done,
            0,
            "write of {len}"
        );
    }
    let word = p.cast::<u64>();
    // SAFETY: nothing writable lies there.
    assert!(unsafe { store_u64(word, 1) }.is_err());
    // SAFETY: as above.
    assert!(unsafe { cas_u64(word, 0, 1) }.is_err());
    // SAFETY: as above.
    assert!(unsafe { fetch_add_u64(word, 1) }.is_err());
    // SAFETY: as above.
    assert!(unsafe { probe_write(p, 1) }.is_err());
}

#[test]
fn missing_memory() {
    install().unwrap();
    let pages = Pages::new(3);
    pages.protect(0, libc::PROT_NONE);
    pages.unmap(1);
    nothing_works(pages.at(0));
    nothing_works(pages.at(PAGE));
    nothing_works(std::ptr::null_mut());
    nothing_works(0xdead_0000_0000_0000usize as *mut u8); // non-canonical
    nothing_works(0xffff_8000_0000_0000usize as *mut u8); // the kernel's half
}

#[test]
fn read_only_memory() {
    install().unwrap();
    let pages = Pages::new(1);
    pages.fill(0, &[7; PAGE]);
    pages.protect(0, libc::PROT_READ);
    nothing_writes(pages.at(64));
    assert_eq!(pages.bytes(0, PAGE), [7; PAGE]);
    // SAFETY: our page.
    assert_eq!(unsafe { probe_read(pages.at(0), PAGE) }, Ok(()));
}

#[test]
fn half_mapped_ranges() {
    install().unwrap();
    let pages = Pages::new(2);
    pages.unmap(1);
    let mut buffer = vec![9u8; 2 * PAGE];
    for len in 1..=3000 {
        for missing in [1, 8, 9, len / 2, len - 1]
            .into_iter()
            .filter(|m| (1..=len).contains(m))
        {
            let p = pages.at(PAGE + missing - len);
            let there = len - missing;
            let done = copy(p, buffer.as_ptr(), len).unwrap_err().done;
            assert!(done <= there, "write of {len}: {done} of {there}");
            assert_eq!(pages.bytes(PAGE - there, done), buffer[..done]);
            assert!(copy(buffer.as_mut_ptr(), p, len).is_err());
            buffer.fill(9);
        }
        // Up to the very edge is fine.
        copy(pages.at(PAGE - len), buffer.as_ptr(), len).unwrap();
        copy(buffer.as_mut_ptr(), pages.at(PAGE - len), len).unwrap();
    }
}

#[test]
fn truncated_file() {
    install().unwrap();
    let (pages, fd) = Pages::of_file(2);
    pages.fill(0, &[3; 2 * PAGE]);
    truncate(fd, PAGE);
    nothing_works(pages.at(PAGE));
    let mut buffer = [0; 2 * PAGE];
    assert!(
        copy(buffer.as_mut_ptr(), pages.at(100), PAGE)
            .unwrap_err()
            .done
            <= PAGE - 100
    );
    truncate(fd, 0);
    nothing_works(pages.at(0));
}

#[test]
fn probes_change_nothing() {
    install().unwrap();
    let pages = Pages::new(4);
    let data: Vec<u8> = (0..4 * PAGE).map(|i| i as u8).collect();
    pages.fill(0, &data);
    // SAFETY: our pages.
    assert_eq!(unsafe { probe_write(pages.at(1), 4 * PAGE - 1) }, Ok(()));
    // SAFETY: as above.
    assert_eq!(unsafe { probe_read(pages.at(1), 4 * PAGE - 1) }, Ok(()));
    assert_eq!(pages.bytes(0, 4 * PAGE), data);
    // SAFETY: an empty range touches nothing.
    assert_eq!(unsafe { probe_read(std::ptr::null(), 0) }, Ok(()));
    // SAFETY: a range that wraps is refused.
    assert!(unsafe { probe_read(pages.at(0), usize::MAX) }.is_err());
    pages.protect(2, libc::PROT_READ);
    // SAFETY: our pages.
    assert_eq!(unsafe { probe_read(pages.at(0), 4 * PAGE) }, Ok(()));
    // SAFETY: as above.
    assert_eq!(unsafe { probe_write(pages.at(0), 2 * PAGE) }, Ok(()));
    // SAFETY: as above.
    assert!(unsafe { probe_write(pages.at(0), 2 * PAGE + 1) }.is_err());
    pages.unmap(3);
    // SAFETY: as above.
    assert!(unsafe { probe_read(pages.at(PAGE), 2 * PAGE + 1) }.is_err());
}

/// Memory that comes and goes under several threads at once.
#[test]
fn faults_in_parallel() {
    install().unwrap();
    let pages = Pages::new(2);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for seed in 0..3usize {
            let (pages, stop) = (&pages, &stop);
            scope.spawn(move || {
                let mut buffer = vec![seed as u8; 2 * PAGE];
                let (mut hits, mut faults, mut len) = (0u64, 0u64, seed);
                while !stop.load(SeqCst) || hits == 0 || faults == 0 {
                    len = (len * 5 + 13) % PAGE;
                    let result = match seed {
                        0 => copy(buffer.as_mut_ptr(), pages.at(PAGE / 2), len),
                        _ => copy(pages.at(PAGE / 2), buffer.as_ptr(), len),
                    };
                    match result {
                        Ok(()) => hits += 1,
                        Err(_) => faults += 1,
                    }
                }
            });
        }
        for _ in 0..500 {
            pages.protect(1, libc::PROT_NONE);
            pages.protect(0, libc::PROT_READ);
            pages.protect(1, libc::PROT_READ | libc::PROT_WRITE);
            pages.protect(0, libc::PROT_READ | libc::PROT_WRITE);
            std::thread::yield_now();
        }
        // Leave something to fail on, in the longer copies only.
        pages.protect(1, libc::PROT_NONE);
        stop.store(true, SeqCst);
    });
}
