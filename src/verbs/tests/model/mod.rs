//! Small programs under every schedule: two connections, three work requests each, rings of two.

mod explorer;
mod oracle;
mod plan;
mod scenario;
mod world;

use explorer::explore;
use kernel_abi::verbs::wc_status;
use scenario::*;

/// More is a mistake in a scenario.
const TOO_MANY: usize = 1_000_000;
/// Larger than what travels in the mailbox.
const LARGE: usize = 4200;

/// Explores, and says how much there was.
fn every(name: &str, s: &Scenario) {
    let begun = std::time::Instant::now();
    let r = explore(s, TOO_MANY);
    println!(
        "{name}: {:.1e} schedules, {} states, {} steps, {} ends, at most {} steps long, {:.2} s",
        r.schedules,
        r.states,
        r.steps,
        r.ends,
        r.longest,
        begun.elapsed().as_secs_f64()
    );
    assert_eq!(r.open, 0, "every state is finished");
    assert!(r.ends != 0);
}

fn idle() -> Work {
    [vec![], vec![]]
}

fn rc(first: Work) -> Scenario {
    Scenario::new(Transport::Rc, first, idle())
}

/// Each operation of RC with a short name. A large SEND takes seven WRITEs.
fn operations() -> Vec<(&'static str, Op)> {
    vec![
        ("SEND", send(8)),
        ("SEND of 0", send_imm(0)),
        ("SEND of 2 lines", send_imm(60)),
        ("large SEND", send_imm(LARGE)),
        ("WRITE", write(8)),
        ("WRITE in 2 pieces", write(9)),
        ("inline WRITE", write(24).inline()),
        ("WRITE of 0", write(0)),
        ("WRITE_IMM", write_imm(8)),
        ("READ", read(8)),
        ("READ of 2 lines", read(48)),
        ("CAS", cas()),
        ("FADD", fadd()),
        ("ATOMIC_WRITE", atomic_write()),
    ]
}

/// Requests where much else may happen.
fn some(op: Op) -> usize {
    if op.len == LARGE { 2 } else { 3 }
}

#[test]
fn each_operation_three_times_on_two_qps() {
    for (name, op) in operations() {
        let three = vec![op, op.on(usize::from(op.len < 16)), op.fenced()];
        // What differs from another in its data only is tried beside less.
        let twin = [
            "SEND of 0",
            "SEND of 2 lines",
            "WRITE in 2 pieces",
            "inline WRITE",
            "FADD",
        ];
        let other = if op.len == LARGE || twin.contains(&name) {
            vec![send(8)]
        } else {
            three.clone()
        };
        every(name, &rc([three, other]));
    }
}

#[test]
fn each_operation_and_the_death_of_either_end() {
    for (name, op) in operations() {
        for end in 0..2 {
            let mut three = vec![op, op.unsignaled(), op];
            three.truncate(some(op));
            let mut s = rc([three, vec![send(8)]]);
            s.may_die[end] = true;
            every(&format!("{name}, end {end} dies"), &s);
        }
    }
}

#[test]
fn each_operation_and_the_loss_of_a_connection() {
    for (name, op) in operations() {
        let three = if op.len == LARGE {
            vec![op, op]
        } else {
            vec![op, op, op]
        };
        let mut s = rc([three, vec![send(8)]]);
        s.may_break = true;
        every(&format!("{name}, lost"), &s);
    }
}

/// What follows a READ of the same memory is ordered by a fence only.
fn behind(a: Op, b: Op) -> Op {
    if a.fetches() { b.fenced() } else { b }
}

#[test]
fn each_pair_of_operations() {
    for (n, a) in operations() {
        for (m, b) in operations() {
            let s = rc([vec![a, behind(a, b), behind(b, a)], vec![send(8)]]);
            every(&format!("{n}, {m}, {n}"), &s);
        }
    }
}

#[test]
fn both_ways() {
    for (name, op) in operations() {
        let n = match op.opcode {
            _ if op.len == LARGE => 1,
            _ if op.fetches() || op.consumes() && op.writes() => 2,
            _ => 3,
        };
        let work = || [vec![op; n], vec![]];
        let s = Scenario::new(Transport::Rc, work(), work());
        every(&format!("{name}, both ways"), &s);
    }
}

#[test]
fn a_refused_request_fails_both_ends() {
    for op in [write(8), write_imm(8), read(8), fadd(), atomic_write()] {
        let bad = op.key(Key::Wrong);
        let mut s = rc([vec![send(8), bad, send(8)], vec![send(8), send(8)]]);
        s.failure = Some(Failure {
            qp: 0,
            op: 1,
            status: wc_status::REM_ACCESS_ERR,
        });
        every(&format!("refused {}", op.opcode), &s);
    }
}

/// Receives are posted at any time, a second passes at any time: with retries that end, and without end.
#[test]
fn receives_that_come_late() {
    for op in [send(8), send_imm(LARGE), write_imm(8)] {
        for (retries, ticks) in [(7, 0), (0, 1), (1, 2)] {
            if ticks == 2 && op.len != 8 {
                continue;
            }
            let mut s = rc([vec![op, op], vec![]]);
            s.late_receives = true;
            s.rnr_retry = retries;
            s.ticks = ticks;
            s.may_refuse = ticks != 0;
            every(
                &format!("{} of {}, {retries} retries", op.opcode, op.len),
                &s,
            );
        }
    }
}

/// Where the skip to the start of the ring and the message behind it do not fit together.
#[test]
fn messages_of_more_than_half_a_ring() {
    let work = [vec![send(8), send(8), send_imm(150), send_imm(150)], vec![]];
    let mut s = Scenario::new(Transport::Rc, work, idle());
    s.lines = 4;
    every("more than half a ring", &s);
    s.naps = 1;
    every("more than half a ring, asleep", &s);
    s.naps = 0;
    for end in 0..2 {
        s.may_die = [end == 0, end == 1];
        every(&format!("more than half a ring, end {end} dies"), &s);
    }
}

/// Either end stops looking at any time.
#[test]
fn who_sleeps_is_woken() {
    for (name, op) in operations() {
        // What takes an answer has schedules enough by itself.
        let n = if name.starts_with("SEND") { 2 } else { 1 };
        let mut s = rc([vec![op; n], vec![]]);
        s.naps = 1;
        every(&format!("{name}, naps"), &s);
    }
    let mut s = rc([vec![send(8), send(8)], vec![]]);
    s.naps = 1;
    s.late_receives = true;
    every("naps and late receives", &s);
}

/// WRITEs arrive in two parts, completions later than what they are for.
#[test]
fn data_and_completions_in_parts() {
    for (name, op) in operations() {
        let mut s = rc([vec![op; some(op) - 1], vec![]]);
        s.tears = 1;
        every(&format!("{name}, torn"), &s);
        let mut s = rc([vec![op; some(op) - 1], vec![]]);
        s.late_completions = true;
        every(&format!("{name}, late completions"), &s);
    }
}

/// The first greeting, and native rings with hardly any room.
#[test]
fn beginnings() {
    for (name, op) in operations() {
        let mut s = rc([vec![op, op], vec![]]);
        s.greeted = false;
        every(&format!("{name}, first"), &s);
        let mut s = Scenario::new(
            Transport::Rc,
            [vec![op, op], vec![]],
            [vec![send(8)], vec![]],
        );
        s.native_room = crate::native::RING_RESERVED + 3;
        every(&format!("{name}, no room"), &s);
    }
}

#[test]
fn shared_receives() {
    for op in [
        send(8),
        send_imm(0),
        write(8),
        write_imm(8),
        read(8),
        fadd(),
    ] {
        let work = [vec![op, send_imm(8)], vec![send_imm(8), send_imm(8)]];
        every(
            &format!("SRQ, {}", op.opcode),
            &Scenario::new(Transport::Srq, work, idle()),
        );
    }
    for op in [send_imm(8), send_imm(LARGE), write_imm(8)] {
        let work = [vec![op, send_imm(8)], vec![send_imm(8)]];
        let mut s = Scenario::new(Transport::Srq, work, idle());
        s.may_die[0] = true;
        every(
            &format!("SRQ, {} of {}, the sender dies", op.opcode, op.len),
            &s,
        );
        s.may_die = [false, true];
        every(
            &format!("SRQ, {} of {}, the receiver dies", op.opcode, op.len),
            &s,
        );
    }
}

#[test]
fn unreliable_connections() {
    for op in [
        send_imm(0),
        send_imm(8),
        send_imm(LARGE),
        write(8),
        write_imm(8),
    ] {
        let work = || [vec![op; some(op)], vec![send_imm(8)]];
        let s = Scenario::new(Transport::Uc, work(), idle());
        every(&format!("UC {} of {}", op.opcode, op.len), &s);
        for end in 0..2 {
            let mut s = Scenario::new(Transport::Uc, work(), idle());
            s.may_die[end] = true;
            every(
                &format!("UC {} of {}, end {end} dies", op.opcode, op.len),
                &s,
            );
        }
        // Messages without a receive are dropped.
        let mut s = Scenario::new(Transport::Uc, [vec![op; 2], vec![]], idle());
        s.late_receives = true;
        s.ticks = 1;
        every(&format!("UC {} of {}, late", op.opcode, op.len), &s);
    }
}

/// Both ends are reset and connected again under their old numbers, at any time, and send at once: all of it arrives, once.
#[test]
fn both_ends_begin_anew() {
    for (name, op) in operations() {
        for used in [false, true] {
            // What takes no receive is served by an old end that nobody has spoken to, and lost with it: it was not too early.
            if !used && !op.sends() {
                continue;
            }
            let n = if op.len == LARGE || op.fetches() {
                1
            } else {
                2
            };
            let mut s = rc([vec![op; n], vec![]]);
            (s.renews, s.used, s.greeted) = ([true; 2], used, used);
            s.ticks = u8::from(used);
            every(&format!("{name}, begun anew, used {used}"), &s);
        }
    }
    let mut s = Scenario::new(
        Transport::Rc,
        [vec![send(8)], vec![]],
        [vec![send(8)], vec![]],
    );
    (s.renews, s.used) = ([true; 2], true);
    every("SEND both ways, begun anew", &s);
    for (transport, n) in [(Transport::Srq, 2), (Transport::Xrc, 1), (Transport::Uc, 2)] {
        let mut s = Scenario::new(transport, [vec![send_imm(8); n], vec![]], idle());
        (s.renews, s.used) = ([true; 2], true);
        every(&format!("{transport:?}, begun anew"), &s);
    }
}

/// One end is, and the other is not: RC gives up and UC goes on, and nobody waits for ever.
#[test]
fn one_end_begins_anew() {
    for (transport, used) in [
        (Transport::Rc, false),
        (Transport::Rc, true),
        (Transport::Uc, false),
        (Transport::Uc, true),
    ] {
        for end in 0..2 {
            for op in [send_imm(8), send_imm(LARGE), write_imm(8)] {
                let mut s = Scenario::new(transport, [vec![op], vec![]], [vec![], vec![]]);
                s.renews[end] = true;
                (s.used, s.greeted) = (used, used);
                every(
                    &format!(
                        "{transport:?} {} of {}, end {end} begins anew",
                        op.opcode, op.len
                    ),
                    &s,
                );
            }
        }
    }
}

#[test]
fn xrc() {
    for op in [send_imm(8), send_imm(LARGE), write_imm(8)] {
        let work = [vec![op], vec![send_imm(8)]];
        let mut s = Scenario::new(Transport::Xrc, work, idle());
        s.may_die[0] = true;
        every(
            &format!("XRC {} of {}, the sender dies", op.opcode, op.len),
            &s,
        );
        s.may_die = [false, true];
        every(
            &format!("XRC {} of {}, the receiver dies", op.opcode, op.len),
            &s,
        );
    }
    let both = || vec![send_imm(8), send_imm(8)];
    every(
        "XRC",
        &Scenario::new(Transport::Xrc, [both(), both()], idle()),
    );
    for op in [write(8), read(8), cas(), fadd(), atomic_write()] {
        let work = [vec![op, op], vec![op]];
        every(
            &format!("XRC {}", op.opcode),
            &Scenario::new(Transport::Xrc, work, idle()),
        );
    }
}

/// Windows are taken away by their owner or by a message: afterwards nobody writes there.
#[test]
fn windows() {
    let through = write(8).key(Key::Window);
    let by_message = [
        vec![through, send_inv(8), send(8)],
        vec![through, send_inv(8)],
    ];
    every("SEND_INV", &rc(by_message));
    every(
        "large SEND_INV",
        &rc([vec![through, send_inv(LARGE)], vec![send(8)]]),
    );
    let refused = [vec![through, send_inv(8), through], vec![send(8)]];
    let mut s = rc(refused);
    s.failure = Some(Failure {
        qp: 0,
        op: 2,
        status: wc_status::REM_ACCESS_ERR,
    });
    every("a key after SEND_INV", &s);
    for first in [vec![through, through, through], vec![through, send(8)]] {
        let owner = [vec![local_inv(), bind(), send(8)], vec![]];
        let mut s = Scenario::new(Transport::Rc, [first.clone(), vec![send(8)]], owner);
        s.may_refuse = true;
        every("LOCAL_INV", &s);
        s.may_die[0] = true;
        every("LOCAL_INV, the writer dies", &s);
        s.may_die = [false, true];
        every("LOCAL_INV, the owner dies", &s);
    }
}
