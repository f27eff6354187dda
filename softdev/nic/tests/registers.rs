//! Programs that know no paravirtual doorbell: stores to the register pages.
#![cfg(target_arch = "x86_64")]
#![allow(
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    reason = "plays a program"
)]

mod common;
use common::*;
use kernel_abi::gaudi2::{Doorbell, SendWqe, comp_type};

struct Page {
    fifo: gaudi_softnic::FifoInfo,
    regs: *mut u8,
    ci: *mut u32,
}

fn fifo(node: &Node, hint: u32) -> Page {
    let fifo = node.ctx.fifo_create(1, hint, 0).unwrap();
    let regs = map(&node.fd, fifo.regs_handle, 4096).wrapping_add(fifo.regs_offset as usize);
    let ci = map(&node.fd, fifo.ci_handle, 4096).cast();
    Page { fifo, regs, ci }
}

/// The ways in which compilers store a doorbell.
fn ring(page: &Page, entry: u64, how: usize) {
    use std::arch::asm;
    let (p, low, high) = (page.regs, entry as u32, (entry >> 32) as u32);
    unsafe {
        match how {
            0 => {
                p.cast::<u32>().write_volatile(low);
                p.add(4).cast::<u32>().write_volatile(high);
            }
            1 => p.cast::<u64>().write_volatile(entry),
            2 => {
                asm!("movq xmm7, {v}", "movq qword ptr [{p}], xmm7", v = in(reg) entry, p = in(reg) p, out("xmm7") _)
            }
            3 => asm!("movnti [{p}], {v}", v = in(reg) entry, p = in(reg) p),
            4 => asm!("xchg [{p}], {v}", v = inout(reg) entry => _, p = in(reg) p),
            _ => {
                asm!("mov [{p} + 4*{z} + 0], {l:e}", "mov [{p} + 4], {h:e}", l = in(reg) low, h = in(reg) high,
                p = in(reg) p, z = in(reg) 0u64)
            }
        }
    }
}

#[test]
fn stores_to_the_page_ring() {
    let dir = tempfile::tempdir().unwrap();
    let opts = options(dir.path());
    let (mut a, mut b) = (Node::new(&opts, 0), Node::new(&opts, 1));
    let (mut qa, mut qb) = (a.alloc(), b.alloc());
    a.connect(&mut qa, b.address(&qb), 16);
    b.connect(&mut qb, a.address(&qa), 16);
    let (src, dst) = (pages(1), pages(1));
    let (from, to) = (a.map_buffer(src), b.map_buffer(dst));
    // Two FIFOs share a page.
    let fifos = [fifo(&a, 0), fifo(&a, 0), fifo(&a, 30)];
    assert_eq!(fifos[0].fifo.regs_handle, fifos[1].fifo.regs_handle);
    assert_eq!(
        (fifos[1].fifo.regs_offset, fifos[2].fifo.regs_offset),
        (0x80, 0x80)
    );
    for i in 0..90u32 {
        src[..4].copy_from_slice(&i.to_le_bytes());
        let page = &fifos[i as usize % 3];
        let w = SendWqe::write(qa.pi, 4, from, to).notify(i);
        qa.put(w, comp_type::CQ);
        ring(
            page,
            Doorbell::new(qa.id, qa.pi, 0).raw(),
            i as usize / 3 % 6,
        );
        assert_eq!(dst[..4], i.to_le_bytes(), "way {}", i / 3 % 6);
        assert_eq!(b.wait_recv().tag(), i);
        a.wait_send();
        // The hardware writes one less than it has popped.
        assert_eq!(unsafe { page.ci.read_volatile() }, i / 3 % 64);
    }
    assert!(a.events().is_empty());
    // A closed FIFO swallows.
    a.ctx.fifo_destroy(1, fifos[0].fifo.id).unwrap();
    qa.put(SendWqe::write(qa.pi, 4, from, to).notify(1), comp_type::CQ);
    ring(&fifos[0], Doorbell::new(qa.id, qa.pi, 0).raw(), 1);
    assert!(b.poll_recv().is_none());
}

#[test]
fn consumer_index_registers() {
    let dir = tempfile::tempdir().unwrap();
    let opts = options(dir.path());
    let (a, mut b) = (Node::new(&opts, 0), Node::with_cq(&opts, 1, 4));
    let (mut qa, mut qb) = (a.alloc(), b.alloc());
    a.connect(&mut qa, b.address(&qb), 64);
    b.connect(&mut qb, a.address(&qa), 64);
    let (src, dst) = (pages(1), pages(1));
    let (from, to) = (a.map_buffer(src), b.map_buffer(dst));
    let info = b.recv_cq.info;
    let regs = map(&b.fd, info.regs_handle, 4096).wrapping_add(info.regs_offset as usize);
    for i in 0..20u32 {
        a.write(&mut qa, 4, from, to, false, Some(i));
    }
    for i in 0..20u32 {
        wait("an entry", || {
            a.ctx.progress(1 << 20);
            b.recv_cq
                .poll()
                .inspect(|cqe| assert_eq!(cqe.tag(), i))
                .is_some()
        });
        let ci = b.recv_cq.ci;
        if i % 2 == 0 {
            unsafe {
                regs.cast::<u64>()
                    .write_volatile(u64::from(ci) << 32 | u64::from(info.id))
            };
        } else {
            unsafe { regs.cast::<u32>().write_volatile(info.id) };
            unsafe { regs.add(4).cast::<u32>().write_volatile(ci) };
        }
    }
    drop(a);
}

#[test]
fn other_faults_go_where_they_went_before() {
    // A handler of the program, installed before and after.
    static SEEN: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    extern "C" fn mine(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
        SEEN.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        // Skip the two bytes of `mov [rax], ecx`.
        unsafe {
            (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_RIP as usize] += 2
        };
    }
    let Some((_, dir)) = role() else {
        // In a process of its own: signal handlers are for all threads.
        let dir = tempfile::tempdir().unwrap();
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "other_faults_go_where_they_went_before"])
            .env(ROLE, "signals")
            .env(DIR, dir.path())
            .status()
            .unwrap();
        assert!(status.success());
        return;
    };
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = mine as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO;
    unsafe { libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut()) };
    let node = Node::new(&options(&dir), 0);
    let file = tempfile::tempfile_in(&dir).unwrap();
    let beyond = map(&file.into(), 0, 4096);
    unsafe { std::arch::asm!("mov [rax], ecx", in("rax") beyond, in("ecx") 1) };
    assert_eq!(SEEN.load(std::sync::atomic::Ordering::SeqCst), 1);
    // A register page still works, also with memory of the program missing.
    let mut q = node.alloc();
    let me = node.address(&q);
    node.connect(&mut q, me, 16);
    let page = fifo(&node, 0);
    let gone = pages(1);
    let va = node.map_buffer(gone);
    unsafe { libc::mprotect(gone.as_mut_ptr().cast(), 4096, libc::PROT_NONE) };
    q.put(SendWqe::write(0, 4, va, va), comp_type::NONE);
    ring(&page, Doorbell::new(q.id, q.pi, 0).raw(), 1);
    node.expect_syndrome(&q, 0xf0);
    assert_eq!(SEEN.load(std::sync::atomic::Ordering::SeqCst), 1);
}
