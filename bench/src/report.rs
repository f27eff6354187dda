//! Rows of figures: ours and the peers', interleaved, with ratios and budgets.

use crate::bare;
use crate::rig::{Rig, median};
use crate::tools::Failure;
use std::io;

/// A round in which the CPUs moved compares nothing: the cache-line time before and after may differ
/// by this factor.
const SAME_MODE: f64 = 1.4;

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Nanoseconds; less is better.
    Time,
    /// GB/s; more is better.
    Bandwidth,
    /// Millions per second; more is better.
    Rate,
    /// So many per operation; less is better.
    Count,
}

impl Unit {
    fn less_is_better(self) -> bool {
        matches!(self, Unit::Time | Unit::Count)
    }

    fn show(self, value: f64) -> String {
        match self {
            Unit::Time if value < 10_000.0 => format!("{value:.0} ns"),
            Unit::Time => format!("{:.1} us", value / 1000.0),
            Unit::Bandwidth => format!("{value:.2} GB/s"),
            Unit::Rate => format!("{value:.2} M/s"),
            Unit::Count => format!("{value:.2} per op"),
        }
    }
}

/// A measurement.
pub type Measure<'a> = Box<dyn Fn() -> Result<f64, Failure> + 'a>;

/// What ours is held against.
pub struct Peer<'a> {
    pub name: &'static str,
    pub measure: Measure<'a>,
    /// The ratio of ours to this peer that the project promises: at most for times, else at least.
    pub budget: Option<f64>,
}

/// One line of the report.
pub struct Row<'a> {
    pub name: String,
    pub unit: Unit,
    pub ours: Measure<'a>,
    pub peers: Vec<Peer<'a>>,
}

/// How the rows are run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub repeats: usize,
    pub peers_only: bool,
}

/// What became of all rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub met: usize,
    pub missed: usize,
    pub failed: usize,
}

/// The figures of one round.
struct Round {
    line: [f64; 2],
    ours: Option<f64>,
    peers: Vec<f64>,
}

impl Round {
    fn is_steady(&self) -> bool {
        let [before, after] = self.line;
        before.max(after) <= before.min(after) * SAME_MODE
    }
}

/// Measures the row, prints it and counts it.
pub fn run(rig: &Rig, row: &Row<'_>, options: Options, totals: &mut Totals) -> io::Result<()> {
    let mut rounds = Vec::new();
    let mut spare = options.repeats;
    while rounds.len() < options.repeats {
        match round(rig, row, options, rounds.len() % 2 == 1) {
            Ok(round) if round.is_steady() || spare == 0 => rounds.push(round),
            Ok(_) => spare -= 1,
            Err(failure) => {
                println!("{:24} FAILED: {failure}", row.name);
                totals.failed += 1;
                return Ok(());
            }
        }
    }
    print(row, &rounds, totals);
    Ok(())
}

fn round(rig: &Rig, row: &Row<'_>, options: Options, peers_first: bool) -> Result<Round, Failure> {
    let before = bare::line(rig)?;
    let ours = || {
        if options.peers_only {
            Ok(None)
        } else {
            (row.ours)().map(Some)
        }
    };
    let peers = || {
        row.peers
            .iter()
            .map(|peer| (peer.measure)())
            .collect::<Result<Vec<f64>, Failure>>()
    };
    let (ours, peers) = if peers_first {
        let peers = peers()?;
        (ours()?, peers)
    } else {
        (ours()?, peers()?)
    };
    Ok(Round {
        line: [before, bare::line(rig)?],
        ours,
        peers,
    })
}

fn print(row: &Row<'_>, rounds: &[Round], totals: &mut Totals) {
    let of = |pick: &dyn Fn(&Round) -> f64| median(&rounds.iter().map(pick).collect::<Vec<f64>>());
    let has_ours = rounds.iter().all(|round| round.ours.is_some());
    let ours = if has_ours {
        row.unit.show(of(&|round| round.ours.unwrap_or(0.0)))
    } else {
        "-".into()
    };
    let moved = rounds.iter().filter(|round| !round.is_steady()).count();
    let note = if moved > 0 {
        format!(", CPUs moved in {moved} rounds")
    } else {
        String::new()
    };
    println!(
        "{:24} {ours:>12}   line {:.0} / {:.0} ns{note}",
        row.name,
        of(&|round| round.line[0]),
        of(&|round| round.line[1])
    );
    for (index, peer) in row.peers.iter().enumerate() {
        let theirs = row.unit.show(of(&|round| round.peers[index]));
        // Ratios are taken within a round, for the next one may find the CPUs elsewhere.
        let ratio = of(&|round| round.ours.unwrap_or(0.0) / round.peers[index]);
        let verdict = match peer.budget {
            _ if !has_ours => String::new(),
            None => format!("{ratio:6.2}x"),
            Some(limit) => {
                let met = is_met(row.unit, ratio, limit);
                *(if met {
                    &mut totals.met
                } else {
                    &mut totals.missed
                }) += 1;
                let side = if row.unit.less_is_better() {
                    "at most"
                } else {
                    "at least"
                };
                format!(
                    "{ratio:6.2}x   budget {side} {limit}x: {}",
                    if met { "met" } else { "NOT MET" }
                )
            }
        };
        println!("    {:20} {theirs:>12} {verdict}", peer.name);
    }
}

fn is_met(unit: Unit, ratio: f64, limit: f64) -> bool {
    if unit.less_is_better() {
        ratio <= limit
    } else {
        ratio >= limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_and_failures_are_counted() {
        let Ok(rig) = Rig::new() else { return };
        let options = Options {
            repeats: 1,
            peers_only: false,
        };
        let mut totals = Totals::default();
        let row = |unit, ours: f64, budget| Row {
            name: "test".into(),
            unit,
            ours: Box::new(move || {
                if ours > 0.0 {
                    Ok(ours)
                } else {
                    Err(Failure("on purpose".into()))
                }
            }),
            peers: vec![Peer {
                name: "peer",
                measure: Box::new(|| Ok(100.0)),
                budget: Some(budget),
            }],
        };
        for row in [
            row(Unit::Time, 150.0, 2.0),
            row(Unit::Time, 250.0, 2.0),
            row(Unit::Bandwidth, 95.0, 0.9),
            row(Unit::Bandwidth, 85.0, 0.9),
            row(Unit::Rate, 0.0, 1.0),
        ] {
            run(&rig, &row, options, &mut totals).unwrap();
        }
        assert_eq!(
            totals,
            Totals {
                met: 2,
                missed: 2,
                failed: 1
            }
        );
        run(
            &rig,
            &row(Unit::Time, 0.0, 1.0),
            Options {
                peers_only: true,
                ..options
            },
            &mut totals,
        )
        .unwrap();
        assert_eq!(
            totals,
            Totals {
                met: 2,
                missed: 2,
                failed: 1
            }
        );
    }
}
