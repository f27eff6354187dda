//! Random requests to the rxe personality.

mod common;
#[path = "common/fuzz.rs"]
mod fuzz;
#[path = "common/fuzz_run.rs"]
mod fuzz_run;

use common::*;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_breaks(steps in { set_up(|options| options.rxe = true); prop::collection::vec(fuzz::step(), 1..60) }) {
        fuzz_run::run(&steps, true);
    }
}
