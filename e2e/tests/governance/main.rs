//! What the cooperative decides, on real clusters: the step to the complete rules, a charter with numbers of its own,
//! cancelled and withdrawn proposals, a partition across a close, and what the votes change for work that runs.
//!
//! The cases stand on one another: later ones need the rules and the periods that earlier ones voted.

mod challenged;
mod charter;
mod checkpoints;
mod decisions;
mod expelled;
mod figures;
mod hosts;
mod keys;
mod partition;
mod reclaimed;
mod rules;
mod work;

use std::process::ExitCode;

use koinon_e2e::Suite;
use koinon_e2e::story::MEMBERS;

fn main() -> ExitCode {
    Suite::over(&MEMBERS)
        .case("three_members_step_to_the_complete_rules_by_one_vote", charter::complete_rules)
        .case("a_charter_change_is_in_force_for_the_next_proposal_and_not_for_the_last", charter::changed)
        .case("a_partition_across_a_close_ends_in_one_root_everywhere", partition::across_a_close)
        .case("a_cancelled_proposal_never_takes_effect_and_its_slot_is_free_again", decisions::cancelled)
        .case("its_author_takes_a_proposal_back", decisions::withdrawn)
        .case("a_member_with_an_interest_abstains_and_an_absent_one_votes_through_another", decisions::stood_in)
        .case("a_key_rotated_in_the_middle_of_a_vote_leaves_the_vote_before_it_and_ends_the_old_key", keys::rotated)
        .case("a_voted_checkpoint_is_what_remains_for_two_audits_that_share_no_code", checkpoints::voted)
        .case("a_placement_rule_and_an_owners_limit_each_move_what_runs", rules::narrowed)
        .case("an_owner_has_its_gpus_within_its_notice_and_the_job_is_served_elsewhere", reclaimed::by_its_owner)
        .case("gpus_count_as_challenged_once_another_member_made_them_compute_in_time", challenged::by_another)
        .case("a_suspended_host_drains_and_is_refused_and_still_votes_until_it_is_reinstated", hosts::suspended)
        .case("every_operator_tells_in_its_metrics_what_was_decided", figures::shown)
        .case("a_withdrawn_release_drains_what_runs", work::release_withdrawn)
        // Afterwards there are only two.
        .case(
            "a_member_is_expelled_after_its_reply_and_its_appeal_and_its_keys_open_nothing",
            expelled::after_an_appeal,
        )
        .main()
}
