//! Harness of the integration tests: other people's programs on the soft device, each under a watchdog.

mod build;
mod fabric;
mod helper;
pub mod perftest;
mod process;
mod release;
mod unittest;

pub use build::{artefact, workspace};
pub use fabric::{Fabric, sent_by_device};
pub use helper::{compile, compile_with};
pub use perftest::{bandwidths, rows};
pub use process::{Finished, Running, run_pair, spawn, start_pair};
pub use release::Release;
pub use unittest::{End, outcomes, ran, test_modules, unpack};

/// Collects what went wrong in a table of cases, so that one run shows all of it.
#[derive(Default)]
pub struct Failures {
    cases: usize,
    texts: Vec<String>,
}

impl Failures {
    /// Takes the result of one case.
    pub fn note(&mut self, case: &str, result: Result<(), String>) {
        self.cases += 1;
        if let Err(why) = result {
            eprintln!("FAILED {case}");
            self.texts.push(format!("---- {case}\n{why}"));
        }
    }

    /// Panics with everything that was collected.
    pub fn check(self) {
        assert!(self.cases > 0, "no case ran");
        assert!(
            self.texts.is_empty(),
            "{} of {} cases failed\n{}",
            self.texts.len(),
            self.cases,
            self.texts.join("\n")
        );
    }
}

/// Numbers that look random and are the same in each run (xorshift64*).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.max(1))
    }

    /// From 0 to `bound - 1`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) % bound.max(1)
    }
}
