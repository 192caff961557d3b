//! Which member is asked to host a replica, and why not each of the others.
//!
//! Filters first, each refusal with the numbers that decided; then a simple score among those that are left. The
//! report is what conditions, `kubectl koinon plan` and `kubectl koinon explain` print.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::body::catalogue::ModelRelease;
use crate::body::latest::{EvidenceLevel, GpuNeed, GuestsMode, NetworkPolicyState, Offer, OfferedClass};
use crate::body::norms::PlacementRules;
use crate::ids::{Jurisdiction, License, ManifestDigest, MemberId, Seconds};
use crate::liveness::Liveness;
use crate::policy::{Halted, usable_on_probation};

/// What one replica needs, and what its team allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// The model, for the preference of hosts that hold its weights.
    pub model: ManifestDigest,
    /// The GPUs, all on one node.
    pub gpu: GpuNeed,
    /// Only these members; empty means any.
    pub members: BTreeSet<MemberId>,
    /// Never these.
    pub exclude_members: BTreeSet<MemberId>,
    /// Only in these jurisdictions; empty means any.
    pub jurisdictions: BTreeSet<Jurisdiction>,
    /// The weakest evidence of capacity that is accepted.
    pub min_evidence: EvidenceLevel,
    /// Most replicas of the job at one member.
    pub max_per_member: Option<u32>,
    /// What the cooperative allows to all work that one member does for another.
    pub rules: PlacementRules,
    /// What the home's owner allows.
    pub owner: OwnerRules,
}

/// A member's own rules, beside the cooperative's: they can only narrow. By default everything is allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnerRules {
    /// Work for and of others only where the other member is in one of these; empty means any.
    pub jurisdictions: BTreeSet<Jurisdiction>,
    /// Only models under these licences; empty means any.
    pub licenses: BTreeSet<License>,
}

impl OwnerRules {
    /// Whether work is exchanged with a member in `jurisdiction`.
    #[must_use]
    pub fn allow_jurisdiction(&self, jurisdiction: &Jurisdiction) -> bool {
        self.jurisdictions.is_empty() || self.jurisdictions.contains(jurisdiction)
    }

    /// Whether `release` is served, here or for this member elsewhere.
    #[must_use]
    pub fn allow_license(&self, release: &ModelRelease) -> bool {
        self.licenses.is_empty() || self.licenses.contains(&release.license)
    }
}

/// One member as the home sees it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The member.
    pub member: MemberId,
    /// How it is heard; `None` for the home itself.
    pub liveness: Option<Liveness>,
    /// What stops it from work, where anything does; `None` for the home itself, whose GPUs are its owner's own.
    pub halted: Option<Halted>,
    /// What stops the home from work with others; `None` for the home itself.
    pub home_halted: Option<Halted>,
    /// Where it is on probation: GPUs of the class that this home holds there already.
    pub on_probation: Option<u32>,
    /// Whether the home's owner keeps work away from it.
    pub cordoned: bool,
    /// Its newest offer and the age of that; `None` where none was heard or it has expired.
    pub offer: Option<(Offer, Seconds)>,
    /// Replicas of this job that it hosts already.
    pub replicas_here: u32,
    /// Why it refused a short while ago, in its own words.
    pub refused_lately: Option<String>,
}

/// Why a member cannot host the replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rejection {
    /// It does no new work.
    Halted(Halted),
    /// The home does no new work with others.
    HomeHalted(Halted),
    /// Not among `placement.members`.
    NotListed,
    /// Among `placement.excludeMembers`.
    Excluded,
    /// The home's owner cordoned it.
    Cordoned,
    /// It was not heard lately.
    NotHeard(Liveness),
    /// It refused a short while ago.
    RefusedLately(String),
    /// No valid offer of it is known.
    NoOffer,
    /// Its site is elsewhere.
    Jurisdiction {
        /// Where it is.
        is: Jurisdiction,
    },
    /// The cooperative lets the model, or any, not be served where it is.
    Residency {
        /// Where it is.
        is: Jurisdiction,
    },
    /// The home's owner sends no work to where it is.
    OwnerJurisdiction {
        /// Where it is.
        is: Jurisdiction,
    },
    /// It takes no guests.
    Guests(GuestsMode),
    /// It cannot confine guests.
    NetworkPolicy(NetworkPolicyState),
    /// It has no GPU of the class.
    NoClass,
    /// Its figures are believed less than the job asks for.
    Evidence {
        /// How far they are believed.
        is: EvidenceLevel,
        /// How far they must be.
        asked: EvidenceLevel,
    },
    /// No node of it has that many GPUs, free or not.
    NodeTooSmall {
        /// The most that one node has.
        largest_node: u32,
    },
    /// Not that many are free on one node now.
    TooFewFree {
        /// The most that are free on one node.
        largest_block: u32,
        /// How many are free in all.
        offered: u32,
    },
    /// It is new, and no more of what it offers is used until it is confirmed.
    OnProbation {
        /// How many of its GPUs may be used.
        usable: u32,
        /// How many of them this home holds already.
        held: u32,
        /// How many are free in all.
        offered: u32,
    },
    /// It hosts as many replicas as the job allows.
    MaxPerMember {
        /// How many.
        replicas: u32,
    },
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Halted(halted) => halted.fmt(f),
            Self::HomeHalted(halted) => write!(f, "gets nothing from this member, which {halted}"),
            Self::NotListed => f.write_str("is not in placement.members"),
            Self::Excluded => f.write_str("is in placement.excludeMembers"),
            Self::Cordoned => f.write_str("is cordoned by this member"),
            Self::NotHeard(liveness) => write!(f, "is {liveness:?}"),
            Self::RefusedLately(why) => write!(f, "refused a short while ago: {why}"),
            Self::NoOffer => f.write_str("has no valid offer"),
            Self::Jurisdiction { is } => write!(f, "is in {is}, which placement.jurisdictions does not list"),
            Self::Residency { is } => {
                write!(f, "is in {is}, where the cooperative's placement rules do not let this model be served")
            }
            Self::OwnerJurisdiction { is } => {
                write!(f, "is in {is}, which limits.jurisdictions of this member's Cooperative does not list")
            }
            Self::Guests(mode) => write!(f, "takes no guests now (guests.mode {mode:?})"),
            Self::NetworkPolicy(state) => write!(f, "cannot confine guests (network policy {state:?})"),
            Self::NoClass => f.write_str("has no GPU of the class"),
            Self::Evidence { is, asked } => write!(f, "its figures are only {is:?}, {asked:?} is asked for"),
            Self::NodeTooSmall { largest_node } => write!(f, "its largest node has {largest_node}"),
            Self::TooFewFree { largest_block, offered } => {
                write!(f, "has {largest_block} free on one node ({offered} in all)")
            }
            Self::OnProbation { usable, held, offered } => {
                write!(
                    f,
                    "is on probation: {usable} of its GPUs may be used until it is confirmed, {held} are, {offered} are free"
                )
            }
            Self::MaxPerMember { replicas } => write!(f, "hosts {replicas} replicas of the job already"),
        }
    }
}

/// The parts of a score, the more important first; greater is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Score {
    /// Fewer replicas of the same job there: a lost member takes fewer with it.
    pub spread: std::cmp::Reverse<u32>,
    /// The weights are there already: minutes to hours sooner.
    pub weights_cached: bool,
    /// The smallest sufficient block: large blocks stay whole for jobs that need them.
    pub left_over: std::cmp::Reverse<u32>,
}

/// What the planner found about one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// It can host the replica.
    Fits(Score),
    /// It cannot.
    Rejected(Rejection),
}

/// The planner's choice and its reasons.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanReport {
    /// Who is asked; `None` where nobody fits.
    pub chosen: Option<MemberId>,
    /// What was found about each member.
    pub findings: BTreeMap<MemberId, Finding>,
    gpu: GpuNeed,
}

impl PlanReport {
    /// The most GPUs of the class that any one node of any member has, where that is known, and whose it is.
    #[must_use]
    pub fn largest_node(&self) -> Option<(u32, &MemberId)> {
        self.findings
            .iter()
            .filter_map(|(member, finding)| match finding {
                Finding::Rejected(Rejection::NodeTooSmall { largest_node }) => Some((*largest_node, member)),
                _ => None,
            })
            .max_by_key(|(largest, member)| (*largest, std::cmp::Reverse(*member)))
    }

    /// Whether no member could host it even if everything were free: more GPUs on one node than any node has.
    #[must_use]
    pub fn larger_than_any_node(&self) -> bool {
        self.chosen.is_none()
            && self.largest_node().is_some()
            && self.findings.values().all(|finding| {
                matches!(finding, Finding::Rejected(Rejection::NodeTooSmall { .. } | Rejection::NoClass))
            })
    }
}

impl fmt::Display for PlanReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let GpuNeed { class, count } = &self.gpu;
        match (&self.chosen, self.largest_node()) {
            (Some(member), _) => write!(f, "{member} is asked for {count} {class} on one node")?,
            (None, Some((largest, member))) if self.larger_than_any_node() => {
                write!(f, "asks for {count} {class} on one node; the largest has {largest} ({member})")?;
            }
            (None, _) => write!(f, "no member can host {count} {class} on one node")?,
        }
        for (member, finding) in &self.findings {
            match finding {
                Finding::Fits(_) if self.chosen.as_ref() == Some(member) => {}
                Finding::Fits(_) => write!(f, "; {member} would do too")?,
                Finding::Rejected(rejection) => write!(f, "; {member} {rejection}")?,
            }
        }
        Ok(())
    }
}

/// Chooses a host among `candidates`.
///
/// # Guarantees
/// The same inputs give the same report, in whatever order the candidates come. Ties go to the member whose id
/// sorts first.
pub fn plan(need: &Need, candidates: &[Candidate]) -> PlanReport {
    let findings: BTreeMap<MemberId, Finding> =
        candidates.iter().map(|candidate| (candidate.member.clone(), find(need, candidate))).collect();
    let chosen = findings
        .iter()
        .filter_map(|(member, finding)| match finding {
            Finding::Fits(score) => Some((score, std::cmp::Reverse(member))),
            Finding::Rejected(_) => None,
        })
        .max()
        .map(|(_, std::cmp::Reverse(member))| member.clone());
    PlanReport { chosen, findings, gpu: need.gpu.clone() }
}

fn find(need: &Need, candidate: &Candidate) -> Finding {
    match fit(need, candidate) {
        Ok(score) => Finding::Fits(score),
        Err(rejection) => Finding::Rejected(rejection),
    }
}

fn fit(need: &Need, candidate: &Candidate) -> Result<Score, Rejection> {
    let member = &candidate.member;
    if let Some(halted) = candidate.home_halted {
        return Err(Rejection::HomeHalted(halted));
    }
    if let Some(halted) = candidate.halted {
        return Err(Rejection::Halted(halted));
    }
    if !need.members.is_empty() && !need.members.contains(member) {
        return Err(Rejection::NotListed);
    }
    if need.exclude_members.contains(member) {
        return Err(Rejection::Excluded);
    }
    if candidate.cordoned {
        return Err(Rejection::Cordoned);
    }
    if let Some(liveness @ (Liveness::Suspect | Liveness::Lost)) = candidate.liveness {
        return Err(Rejection::NotHeard(liveness));
    }
    if let Some(why) = &candidate.refused_lately {
        return Err(Rejection::RefusedLately(why.clone()));
    }
    let (offer, _age) = candidate.offer.as_ref().ok_or(Rejection::NoOffer)?;
    if !need.jurisdictions.is_empty() && !need.jurisdictions.contains(&offer.jurisdiction) {
        return Err(Rejection::Jurisdiction { is: offer.jurisdiction.clone() });
    }
    let foreign = candidate.liveness.is_some();
    if foreign && !need.rules.allow(&need.model, &offer.jurisdiction) {
        return Err(Rejection::Residency { is: offer.jurisdiction.clone() });
    }
    if foreign && !need.owner.allow_jurisdiction(&offer.jurisdiction) {
        return Err(Rejection::OwnerJurisdiction { is: offer.jurisdiction.clone() });
    }
    if foreign && offer.guests != GuestsMode::Accept {
        return Err(Rejection::Guests(offer.guests));
    }
    if foreign && !matches!(offer.network_policy, NetworkPolicyState::Enforced | NetworkPolicyState::AcceptedUnenforced)
    {
        return Err(Rejection::NetworkPolicy(offer.network_policy));
    }
    // What makes a host believed must not wait until it is.
    let tests = need.rules.challenges.as_ref().is_some_and(|challenges| challenges.model == need.model);
    let voted = if foreign && !tests { need.rules.min_evidence } else { EvidenceLevel::Claimed };
    let class = best_class(need, offer, need.min_evidence.max(voted))?;
    if let Some(held) = candidate.on_probation {
        // What this home holds there was offered too; of what others hold it knows nothing, and the host refuses the rest.
        let usable = usable_on_probation(u64::from(class.offered) + u64::from(held));
        if u64::from(held) + u64::from(need.gpu.count) > usable {
            let usable = u32::try_from(usable).unwrap_or(u32::MAX);
            return Err(Rejection::OnProbation { usable, held, offered: class.offered });
        }
    }
    let voted = need.rules.max_replicas_per_member.filter(|_| foreign);
    if [need.max_per_member, voted].into_iter().flatten().any(|most| candidate.replicas_here >= most) {
        return Err(Rejection::MaxPerMember { replicas: candidate.replicas_here });
    }
    Ok(Score {
        spread: std::cmp::Reverse(candidate.replicas_here),
        weights_cached: offer.weights.contains(&need.model),
        left_over: std::cmp::Reverse(class.largest_block.saturating_sub(need.gpu.count)),
    })
}

/// The offered class that fits best, or what is wrong with the nearest one.
fn best_class<'a>(need: &Need, offer: &'a Offer, evidence: EvidenceLevel) -> Result<&'a OfferedClass, Rejection> {
    let mut nearest = Rejection::NoClass;
    let mut of_class: Vec<&OfferedClass> = offer.classes.iter().filter(|c| c.class == need.gpu.class).collect();
    of_class.sort_by_key(|class| class.largest_block);
    for class in of_class {
        if class.evidence < evidence {
            nearest = Rejection::Evidence { is: class.evidence, asked: evidence };
        } else if let Some(largest_node) = class.largest_node.filter(|&largest| largest < need.gpu.count) {
            nearest = Rejection::NodeTooSmall { largest_node };
        } else if class.largest_block.min(class.offered) < need.gpu.count {
            nearest = Rejection::TooFewFree { largest_block: class.largest_block, offered: class.offered };
        } else {
            return Ok(class);
        }
    }
    Err(nearest)
}

#[cfg(test)]
#[path = "planner_tests.rs"]
mod tests;
