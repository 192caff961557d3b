//! What is wrong gets a clear answer, and nothing is lost: one cooperative that serves a model, and everything that people,
//! peers, mirrors, backups and crashes can do to it.
//!
//! The cooperative is brought to a served job once. Each case then stands on the same three clusters, leaves them as it found
//! them, and asserts the closed reason or the status code, and the numbers of the message. The last case forks a member's log,
//! which nothing takes back.

mod capacity;
mod cli;
mod clone;
mod definitions;
mod ending;
mod forks;
mod founding;
mod gates;
mod gateway;
mod invites;
mod jobs;
mod operators;
mod peer;
mod people;
mod printed;
mod restore;
mod store;
mod votes;
mod weights;

use std::process::ExitCode;

use koinon_e2e::Suite;
use koinon_e2e::story::MEMBERS;

fn main() -> ExitCode {
    Suite::over(&MEMBERS)
        .case("votes_that_do_not_hold_end_in_their_reason_and_good_ones_count", votes::votes)
        .case("proposals_that_do_not_hold_end_in_their_reason", votes::proposals)
        .case("jobs_that_cannot_be_say_why", jobs::refused_jobs)
        .case("calls_that_cannot_be_answered_say_why", gateway::refused)
        .case("a_client_that_goes_away_ends_the_engines_work", gateway::aborted)
        .case("weights_with_another_digest_are_never_served", weights::wrong_digest)
        .case("one_unreadable_object_stops_nobody_else", store::undecodable)
        .case("an_older_or_missing_definition_is_named_and_its_return_is_enough", definitions::missing)
        .case("garbage_at_the_peer_endpoint_stops_nobody", peer::garbage)
        .case("a_peer_that_answers_nothing_costs_the_others_nothing", peer::silent)
        .case("invites_that_do_not_hold_end_in_their_reason", invites::refused)
        .case("the_last_gpu_is_granted_once", capacity::last_gpu)
        .case("a_kill_between_reservation_and_grant_leaks_nothing", capacity::killed_after_reserving)
        .case("two_operators_that_both_believe_they_lead_grant_once", capacity::two_leaders)
        .case("with_the_operator_stopped_the_gates_still_hold", gates::hold)
        .case("what_people_ask_is_answered_with_the_numbers", cli::asked)
        .case("what_is_printed_as_yaml_counts_once_it_is_applied", printed::applied)
        .case("a_cordoned_member_gets_nothing_new", cli::cordoned)
        .case("a_lost_key_is_made_by_nobody_and_a_restored_one_is_the_same", printed::key_lost)
        .case("founders_sign_one_charter_and_a_second_sponsor_one_proposal", founding::founded)
        .case("an_operator_restored_from_a_backup_takes_its_entries_back", restore::from_backup)
        .case("uninstalling_keeps_keys_objects_and_gates_and_coming_back_is_no_new_member", restore::uninstalled)
        .case("a_cloned_operator_signs_nothing_until_its_owner_adopts_it", clone::cloned)
        .case("ending_a_membership_drains_first_and_waits_for_nobody_who_is_cut_off", ending::ended)
        .case("a_forked_log_is_proven_to_everybody_and_stops_nobody_else", forks::forked)
        .main()
}
