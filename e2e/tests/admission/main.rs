//! What the API server itself refuses: the rules of the resources, foreign work that leaves its confinement, and an operator
//! that leaves its own.
//!
//! No part of Koinon runs here. The charts are installed and no node exists to run them, so everything that is refused is
//! refused by admission alone.

mod guests;
mod lifecycle;
mod operator;
mod rules;
mod server;
mod taints;

use std::process::ExitCode;

use koinon_e2e::{DatacenterSpec, Suite};

fn main() -> ExitCode {
    Suite::over(&["aarhus"])
        // What is not served is dropped before a policy sees it, and taints of devices are not served by themselves.
        .with(|spec: DatacenterSpec| spec.without_node().with_device_taints())
        .case("the_charts_install_in_either_order", lifecycle::install)
        .case("every_object_of_the_table_is_accepted", rules::good)
        .case("every_change_that_breaks_a_rule_is_refused_with_its_message", rules::bad)
        .case("what_the_renderer_makes_passes_the_gates", guests::rendered)
        .case("hostile_pods_are_refused_with_pod_security_off", guests::hostile_pods)
        .case("hostile_pods_are_refused_as_deployments_and_replica_sets", guests::hostile_workloads)
        .case("other_kinds_and_shapes_are_refused", guests::hostile_objects)
        .case("a_guest_namespace_stays_one", guests::namespaces)
        .case("nobody_looks_into_a_guest_unless_an_admin_allows_it", guests::connections)
        .case("the_operators_token_starts_rendered_work_in_its_places_and_none_elsewhere", operator::places)
        .case("the_operators_token_leaves_alone_what_it_did_not_make", operator::others)
        .case("the_operators_token_opens_no_namespace", operator::namespaces)
        .case("no_part_has_more_rights_than_it_needs", operator::rights)
        .case("an_agent_speaks_for_its_own_node_only", operator::agent)
        .case("the_operators_token_taints_nodes_and_devices_with_its_own_taint_alone", taints::own_alone)
        .case("uninstalling_keeps_definitions_objects_and_guest_gates", lifecycle::uninstall)
        .main()
}
