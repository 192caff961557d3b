use koinon_core::body::charter::Preset;
use koinon_core::log::Limits;
use koinon_core::policy::Commons;
use koinon_core::testkit::{T0, charter, found, person};

use super::*;

#[test]
fn a_second_sponsor_signs_the_file_in_place_and_the_author_can_then_apply_it() {
    let people = [person("aarhus"), person("bilbao")];
    let both: Vec<_> = people.iter().collect();
    let commons = Commons::new(found(&both, charter(&both, Preset::Standard)), Limits::default());
    let coop = commons.founding().coop();
    let application = person("coimbra").application(coop, T0).envelope().clone();
    let action = Action::Admit(koinon_core::body::proposal::Admit { application });
    let body = commons.state().draft_proposal(action, "t".parse().unwrap(), "".parse().unwrap(), T0).unwrap();
    let statement = people[0].human(coop, T0, Body::Proposal(Box::new(body)));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admit-coimbra.yaml");
    write_envelope(&path, &statement).unwrap();
    let own = add_signature(commons.state(), &people[0].id(), &people[0].governance, &path).unwrap_err();
    assert!(own.to_string().contains("another member has to sign it"), "{own}");
    let stranger = add_signature(commons.state(), &people[1].id(), &person("nobody").governance, &path).unwrap_err();
    assert!(stranger.to_string().contains("no governance key of bilbao"), "{stranger}");
    assert!(precheck::proposal(commons.state(), &read_signed(&path).unwrap()).unwrap_err().lacks_sponsors());

    add_signature(commons.state(), &people[1].id(), &people[1].governance, &path).unwrap();
    let signed = read_signed(&path).unwrap();
    assert_eq!(signed.id(), statement.id(), "a signature more does not make it another proposal");
    precheck::proposal(commons.state(), &signed).unwrap();
}
