//! Granting, held against a real API server: races between members, between operators of one member, and with death.
//!
//! The placement side of the operator runs here as it does in a pod. What it would hear of its peers is put into its hands,
//! so that two members can ask in the same instant and an operator can be killed between any two of its writes.

mod cases;
mod host;
mod operator;
mod reclaim;
mod taints;

use std::process::ExitCode;

use koinon_e2e::{DatacenterSpec, Suite};

fn main() -> ExitCode {
    Suite::over(&["bilbao"])
        .with(|spec: DatacenterSpec| spec.without_node().with_device_taints())
        .case("two_members_that_ask_for_the_last_gpus_at_once_get_them_once", cases::last_gpus)
        .case("two_operators_of_one_member_that_both_lead_grant_a_request_once", cases::two_leaders)
        .case("an_operator_killed_at_any_moment_of_a_grant_leaves_one_reservation_and_one_placement", cases::killed)
        .case("a_reservation_whose_operator_died_becomes_the_placement_that_was_meant", cases::unfinished)
        .case("a_request_that_changed_since_it_was_reserved_for_is_refused_and_holds_nothing", cases::changed)
        .case("a_lower_epoch_is_refused_with_the_one_that_fences_it_also_after_a_release", cases::fenced)
        .case("a_higher_epoch_takes_the_running_copy_over_without_touching_its_workload", cases::taken_over)
        .case("a_grant_that_is_never_renewed_lapses_and_frees_its_gpus", cases::lapsed)
        .case("a_stop_frees_everything_with_every_peer_silent", cases::stopped)
        .case("a_stop_ends_what_runs_also_where_the_reservations_cannot_be_read", cases::stopped_without_records)
        .case("what_a_refusal_decided_by_is_told_in_numbers", cases::refused)
        .case("an_owners_limit_frees_gpus_within_the_notice_in_order_and_can_be_taken_back", reclaim::limited)
        .case("an_emptied_node_loses_all_work_and_takes_nothing_new", reclaim::emptied)
        .case("a_home_that_raises_its_epoch_again_and_again_keeps_nothing_that_is_reclaimed", reclaim::raised)
        .case("a_device_that_fails_ends_its_copy_alone_and_what_a_silent_agent_says_ends_nothing", reclaim::sick)
        .case("where_many_devices_fail_at_once_nothing_is_drained_for_them", reclaim::breaker)
        .case("a_node_is_tainted_while_a_device_needs_its_restart_and_others_taints_stay", taints::comes_and_goes)
        .case("a_taint_goes_with_the_wish_and_with_the_pool", taints::undone)
        .case("a_device_that_is_given_out_by_name_is_tainted_by_a_rule_of_its_own", taints::by_name)
        .measurement("how_long_reclaims_take", reclaim::measured)
        .main()
}
