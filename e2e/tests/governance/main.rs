//! What the cooperative decides, on real clusters: the step to the complete rules, and the first decision by them.

mod charter;
mod decisions;

use std::process::ExitCode;

use koinon_e2e::Suite;
use koinon_e2e::story::MEMBERS;

fn main() -> ExitCode {
    Suite::over(&MEMBERS).case("three_members_step_to_the_complete_rules_by_one_vote", charter::complete_rules).main()
}
