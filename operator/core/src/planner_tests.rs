use super::*;
use crate::body::challenges::{Challenges, ClassChallenge};
use crate::challenge::{Size, Window};
use crate::ids::{Bytes, Digest};

fn need(count: u32) -> Need {
    Need {
        model: ManifestDigest(Digest([7; 32])),
        gpu: GpuNeed { class: "h100-80".parse().unwrap(), count },
        members: BTreeSet::new(),
        exclude_members: BTreeSet::new(),
        jurisdictions: BTreeSet::new(),
        min_evidence: EvidenceLevel::Claimed,
        max_per_member: None,
        rules: PlacementRules::default(),
        owner: OwnerRules::default(),
    }
}

fn offer(free: u32, node: u32) -> Offer {
    Offer {
        classes: vec![OfferedClass {
            class: "h100-80".parse().unwrap(),
            product: "NVIDIA H100 80GB HBM3".parse().unwrap(),
            memory_bytes: Bytes(80 << 30),
            offered: free,
            largest_block: free,
            largest_node: Some(node),
            evidence: EvidenceLevel::SchedulerConsistent,
        }],
        guests: GuestsMode::Accept,
        network_policy: NetworkPolicyState::Enforced,
        weights: vec![],
        gateway: vec![],
        jurisdiction: "ES".parse().unwrap(),
    }
}

fn candidate(name: &str, free: u32, node: u32) -> Candidate {
    Candidate {
        member: name.parse().unwrap(),
        liveness: Some(Liveness::Fresh),
        halted: None,
        home_halted: None,
        on_probation: None,
        cordoned: false,
        offer: Some((offer(free, node), Seconds(3))),
        replicas_here: 0,
        refused_lately: None,
    }
}

fn rejection(need: &Need, candidate: Candidate) -> Rejection {
    match find(need, &candidate) {
        Finding::Rejected(rejection) => rejection,
        Finding::Fits(score) => panic!("fits with {score:?}"),
    }
}

#[test]
fn the_smallest_sufficient_block_is_chosen() {
    let report = plan(&need(2), &[candidate("bilbao", 8, 8), candidate("cork", 4, 4)]);
    assert_eq!(report.chosen, Some("cork".parse().unwrap()));
    assert_eq!(report.to_string(), "cork is asked for 2 h100-80 on one node; bilbao would do too");
}

#[test]
fn a_host_with_the_weights_is_preferred() {
    let mut bilbao = candidate("bilbao", 8, 8);
    bilbao.offer.as_mut().unwrap().0.weights = vec![need(1).model];
    assert_eq!(plan(&need(2), &[bilbao, candidate("cork", 4, 4)]).chosen, Some("bilbao".parse().unwrap()));
}

#[test]
fn a_job_larger_than_any_node_is_told_how_many_the_largest_has() {
    let report = plan(&need(9), &[candidate("bilbao", 8, 8), candidate("cork", 4, 4)]);
    assert!(report.larger_than_any_node());
    let told = "asks for 9 h100-80 on one node; the largest has 8 (bilbao); bilbao its largest node has 8; cork its largest node has 4";
    assert_eq!(report.to_string(), told);
}

#[test]
fn the_report_does_not_depend_on_the_order_of_the_candidates() {
    let (bilbao, cork) = (candidate("bilbao", 4, 4), candidate("cork", 4, 4));
    assert_eq!(plan(&need(2), &[bilbao.clone(), cork.clone()]), plan(&need(2), &[cork, bilbao]));
}

#[test]
fn what_the_cooperative_and_the_owner_allow_narrows_where_others_are_asked() {
    let spain: Jurisdiction = "ES".parse().unwrap();
    let (here, elsewhere) = (BTreeSet::from([spain.clone()]), BTreeSet::from(["DK".parse().unwrap()]));
    let voted = |jurisdictions: &BTreeSet<Jurisdiction>| PlacementRules {
        jurisdictions: jurisdictions.clone(),
        ..PlacementRules::default()
    };
    let bilbao = || candidate("bilbao", 4, 4);
    assert!(plan(&Need { rules: voted(&here), ..need(1) }, &[bilbao()]).chosen.is_some());
    let outside = Need { rules: voted(&elsewhere), ..need(1) };
    assert_eq!(rejection(&outside, bilbao()), Rejection::Residency { is: spain.clone() });
    // An owner's own GPUs are nobody else's business.
    assert!(plan(&outside, &[Candidate { liveness: None, ..bilbao() }]).chosen.is_some());
    let of_model =
        PlacementRules { residency: BTreeMap::from([(need(1).model, elsewhere.clone())]), ..PlacementRules::default() };
    let residency = Need { rules: of_model, ..need(1) };
    assert_eq!(rejection(&residency, bilbao()), Rejection::Residency { is: spain.clone() });
    let owner = OwnerRules { jurisdictions: elsewhere, ..OwnerRules::default() };
    assert_eq!(rejection(&Need { owner, ..need(1) }, bilbao()), Rejection::OwnerJurisdiction { is: spain });
    let proven = PlacementRules { min_evidence: EvidenceLevel::Challenged, ..PlacementRules::default() };
    let (is, asked) = (EvidenceLevel::SchedulerConsistent, EvidenceLevel::Challenged);
    assert_eq!(rejection(&Need { rules: proven, ..need(1) }, bilbao()), Rejection::Evidence { is, asked });
    let few = PlacementRules { max_replicas_per_member: Some(1), ..PlacementRules::default() };
    let one_here = Candidate { replicas_here: 1, ..bilbao() };
    assert_eq!(rejection(&Need { rules: few, ..need(1) }, one_here), Rejection::MaxPerMember { replicas: 1 });
}

#[test]
fn what_makes_a_host_believed_does_not_wait_until_it_is() {
    let window = |least, most| Window { least, most };
    let asked = ClassChallenge { size: Size::new(128, 64).unwrap(), compute: window(40, 50), recall: window(1, 10) };
    let challenges = Challenges {
        engine: "koinon-challenge".parse().unwrap(),
        model: need(1).model,
        every_seconds: Seconds(400),
        challengers: 1,
        fresh_seconds: Seconds(600),
        most_seconds: Seconds(1),
        classes: [(need(1).gpu.class, asked)].into(),
    };
    let rules =
        PlacementRules { min_evidence: EvidenceLevel::Challenged, challenges: Some(challenges), ..Default::default() };
    let test = Need { rules, ..need(1) };
    let plain = candidate("bilbao", 4, 8);
    assert!(plan(&test, std::slice::from_ref(&plain)).chosen.is_some());
    let other = Need { model: ManifestDigest(Digest::of(b"another")), ..test.clone() };
    assert!(matches!(rejection(&other, plain.clone()), Rejection::Evidence { .. }));
    let asks_itself = Need { min_evidence: EvidenceLevel::Challenged, ..test };
    assert!(matches!(rejection(&asks_itself, plain), Rejection::Evidence { .. }), "the job's own demand stays");
}

#[test]
fn each_rule_rejects_with_its_numbers() {
    let plain = || candidate("bilbao", 4, 8);
    assert_eq!(rejection(&need(6), plain()), Rejection::TooFewFree { largest_block: 4, offered: 4 });
    let halted = Some(Halted::Leaving);
    assert_eq!(rejection(&need(1), Candidate { halted, ..plain() }), Rejection::Halted(Halted::Leaving));
    let own = Candidate { home_halted: halted, ..plain() };
    assert_eq!(rejection(&need(1), own), Rejection::HomeHalted(Halted::Leaving));
    assert_eq!(rejection(&need(1), Candidate { cordoned: true, ..plain() }), Rejection::Cordoned);
    assert_eq!(rejection(&need(1), Candidate { offer: None, ..plain() }), Rejection::NoOffer);
    let suspect = Candidate { liveness: Some(Liveness::Suspect), ..plain() };
    assert_eq!(rejection(&need(1), suspect), Rejection::NotHeard(Liveness::Suspect));
    let full = Need { max_per_member: Some(2), ..need(1) };
    assert_eq!(rejection(&full, Candidate { replicas_here: 2, ..plain() }), Rejection::MaxPerMember { replicas: 2 });
    let elsewhere = Need { jurisdictions: ["IE".parse().unwrap()].into(), ..need(1) };
    assert_eq!(rejection(&elsewhere, plain()), Rejection::Jurisdiction { is: "ES".parse().unwrap() });
    let listed = Need { members: ["cork".parse().unwrap()].into(), ..need(1) };
    assert_eq!(rejection(&listed, plain()), Rejection::NotListed);
    let excluded = Need { exclude_members: ["bilbao".parse().unwrap()].into(), ..need(1) };
    assert_eq!(rejection(&excluded, plain()), Rejection::Excluded);
    let strict = Need { min_evidence: EvidenceLevel::Attested, ..need(1) };
    let (is, asked) = (EvidenceLevel::SchedulerConsistent, EvidenceLevel::Attested);
    assert_eq!(rejection(&strict, plain()), Rejection::Evidence { is, asked });
    let other = Need { gpu: GpuNeed { class: "l40s-48".parse().unwrap(), count: 1 }, ..need(1) };
    assert_eq!(rejection(&other, plain()), Rejection::NoClass);
}

#[test]
fn guests_rules_bind_foreign_work_and_not_the_owner_s() {
    let mut stopped = candidate("bilbao", 4, 8);
    stopped.offer.as_mut().unwrap().0.guests = GuestsMode::Stop;
    assert_eq!(rejection(&need(1), stopped.clone()), Rejection::Guests(GuestsMode::Stop));
    stopped.liveness = None;
    assert!(matches!(find(&need(1), &stopped), Finding::Fits(_)));
    let mut open = candidate("bilbao", 4, 8);
    open.offer.as_mut().unwrap().0.network_policy = NetworkPolicyState::Unknown;
    assert_eq!(rejection(&need(1), open), Rejection::NetworkPolicy(NetworkPolicyState::Unknown));
}

#[test]
fn of_a_new_member_a_quarter_is_used_whatever_this_home_holds_of_it() {
    let new = |free, held| Candidate { on_probation: Some(held), ..candidate("bilbao", free, 8) };
    assert!(matches!(find(&need(2), &new(8, 0)), Finding::Fits(_)));
    assert_eq!(rejection(&need(3), new(8, 0)), Rejection::OnProbation { usable: 2, held: 0, offered: 8 });
    // The two that it holds are no longer free, and the quarter is still one of eight.
    let full = rejection(&need(1), new(6, 2));
    assert_eq!(full.to_string(), "is on probation: 2 of its GPUs may be used until it is confirmed, 2 are, 6 are free");
    assert!(matches!(find(&need(1), &new(1, 0)), Finding::Fits(_)), "a small one shows what it is worth");
    assert_eq!(rejection(&need(1), new(2, 1)), Rejection::OnProbation { usable: 1, held: 1, offered: 2 });
}
