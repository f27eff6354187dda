//! Prints what the message path costs in its smallest form, next to what the machine gives.

use gaudi_bench::bare::{self, Mover};
use gaudi_bench::rig::{Rig, median};
use gaudi_bench::spike::{self, Variant};
use std::io;

const ROUNDS: usize = 5;

fn main() -> io::Result<()> {
    let rig = Rig::new()?;
    println!(
        "CPUs {} and {}; one-way figures; medians of {ROUNDS} rounds; line = cache line hand-over before and after\n",
        rig.cpus[0], rig.cpus[1]
    );
    let variants = [
        ("completion, ack line", true, true),
        ("line polled, ack line", false, true),
        ("completion, no ack", true, false),
        ("line polled, no ack", false, false),
    ];
    println!(
        "{:34} {:>10} {:>14} {:>8}",
        "message of 40 bytes", "ns", "line ns", "lines"
    );
    for (name, completion, ack) in variants {
        let variant = Variant { completion, ack };
        row(&rig, name, true, || spike::latency(&rig, variant))?;
    }
    println!("\n{:34} {:>10} {:>14}", "64 outstanding", "M/s", "line ns");
    for (name, completion) in [("completion", true), ("line polled", false)] {
        row(&rig, name, false, || {
            spike::rate(
                &rig,
                Variant {
                    completion,
                    ack: true,
                },
            )
        })?;
    }
    let sizes = [
        (8, "8 B"),
        (64, "64 B"),
        (4096, "4 KiB"),
        (65536, "64 KiB"),
        (1 << 20, "1 MiB"),
    ];
    for mover in [Mover::ProcessVm, Mover::MemFile, Mover::Memcpy] {
        println!(
            "\n{:34} {:>10} {:>14}",
            format!("{mover:?} and a flag"),
            "ns",
            "line ns"
        );
        for (len, name) in sizes {
            row(&rig, name, true, || bare::latency(&rig, mover, len))?;
        }
        println!(
            "{:34} {:>10} {:>14}",
            format!("{mover:?} back to back"),
            "GB/s",
            "line ns"
        );
        for (len, name) in sizes {
            row(&rig, name, false, || bare::bandwidth(&rig, mover, len))?;
        }
    }
    Ok(())
}

fn row(
    rig: &Rig,
    name: &str,
    time: bool,
    mut measure: impl FnMut() -> io::Result<f64>,
) -> io::Result<()> {
    let (mut values, mut before, mut after) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        before.push(bare::line(rig)?);
        values.push(measure()?);
        after.push(bare::line(rig)?);
    }
    let (value, before, after) = (median(&values), median(&before), median(&after));
    let lines = if time {
        format!("{:8.1}", value / ((before + after) / 2.0))
    } else {
        String::new()
    };
    let value = if time {
        format!("{value:10.0}")
    } else {
        format!("{value:10.2}")
    };
    println!(
        "{name:34} {value} {:>14} {lines}",
        format!("{before:.0} / {after:.0}")
    );
    Ok(())
}
