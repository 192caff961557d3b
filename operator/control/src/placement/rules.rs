//! What the cooperative decided and the local owner adds, as placing needs it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use koinon_api::conditions::{self, ConditionType, Reason};
use koinon_api::{Member, ModelRelease, time};
use koinon_core::body::catalogue::{self, Engine};
use koinon_core::body::charter::Parameters;
use koinon_core::body::latest::RefusalReason;
use koinon_core::ids::{EngineName, ManifestDigest, MemberId, Seconds, UnixSeconds};
use koinon_core::planner::OwnerRules;
use koinon_core::policy::{Halted, MemberStanding, Norms, Suspension};
use kube::ResourceExt;

use crate::context::{Context, CooperativeView};

/// Whether a model may be served at the scope of the cooperative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Approval<'a> {
    /// By vote.
    Enacted(&'a catalogue::ModelRelease),
    /// It was, until another vote.
    Withdrawn,
    /// Nobody voted on it.
    Unknown,
}

/// The rules of one moment.
#[derive(Clone, Debug)]
pub struct Rules {
    view: Arc<CooperativeView>,
    at: UnixSeconds,
    denied: BTreeSet<ManifestDigest>,
    cordoned: BTreeSet<MemberId>,
    /// Since when this operator has known a proof against a member.
    accused: BTreeMap<MemberId, UnixSeconds>,
    /// `None` where the owner's limits cannot be read.
    owner: Option<OwnerRules>,
}

impl Rules {
    /// The rules in force; `None` while this cluster belongs to no cooperative.
    #[must_use]
    pub fn now(ctx: &Context) -> Option<Self> {
        let view = ctx.cooperative.borrow().clone()?;
        Some(Self::of(view, &ctx.caches.releases.all(), &ctx.caches.members.all(), ctx.clock.unix()))
    }

    /// From what was decided, and what the local owner wrote on releases and members. Orders hold until their time, so the
    /// same decisions are other rules at another `at`.
    #[must_use]
    pub fn of(
        view: Arc<CooperativeView>,
        releases: &[Arc<ModelRelease>],
        members: &[Arc<Member>],
        at: UnixSeconds,
    ) -> Self {
        // A release or a member that the owner names before it exists here is kept out as well.
        let by_status = releases.iter().filter(|release| release.spec.denied);
        let digest = |release: &ModelRelease| -> Option<ManifestDigest> {
            release.status.as_ref()?.manifest_digest.as_ref()?.parse().ok()
        };
        let named: BTreeSet<String> = releases.iter().filter(|r| r.spec.denied).map(|r| r.name_any()).collect();
        let by_name = view
            .state
            .releases()
            .keys()
            .filter(|digest| named.contains(&koinon_api::names::model_release(&digest.to_string())));
        let denied = by_name.copied().chain(by_status.filter_map(|release| digest(release))).collect();
        let cordoned =
            members.iter().filter(|member| member.spec.cordoned).filter_map(|member| member.name_any().parse().ok());
        let accused =
            members.iter().filter_map(|member| Some((member.name_any().parse().ok()?, accused_since(member)?)));
        // The schema takes no word that breaks its rule. If one did, leaving it out could allow what the owner does not.
        let owner = OwnerRules::try_from(&view.spec.limits).ok();
        Self { denied, cordoned: cordoned.collect(), accused: accused.collect(), owner, view, at }
    }

    /// This member.
    #[must_use]
    pub fn me(&self) -> &MemberId {
        &self.view.me
    }

    /// What this cluster belongs to.
    #[must_use]
    pub fn view(&self) -> &CooperativeView {
        &self.view
    }

    /// The periods in force.
    #[must_use]
    pub fn parameters(&self) -> &Parameters {
        self.view.state.parameters()
    }

    /// The engine catalogue.
    #[must_use]
    pub fn engines(&self) -> &BTreeMap<EngineName, Engine> {
        self.view.state.engines()
    }

    /// Whether `digest` is approved.
    #[must_use]
    pub fn approval(&self, digest: &ManifestDigest) -> Approval<'_> {
        match self.view.state.releases().get(digest) {
            Some(release) if release.withdrawn.is_none() => Approval::Enacted(&release.release),
            Some(_) => Approval::Withdrawn,
            None => Approval::Unknown,
        }
    }

    /// Whether the local owner keeps the model out.
    #[must_use]
    pub fn denied(&self, digest: &ManifestDigest) -> bool {
        self.denied.contains(digest)
    }

    /// Whether the local owner keeps the member out.
    #[must_use]
    pub fn cordoned(&self, member: &MemberId) -> bool {
        self.cordoned.contains(member)
    }

    /// What the local owner allows less than the cooperative does.
    #[must_use]
    pub fn owner(&self) -> Option<&OwnerRules> {
        self.owner.as_ref()
    }

    /// What the cooperative allows to all work that one member does for another.
    #[must_use]
    pub fn norms(&self) -> &Norms {
        self.view.state.norms()
    }

    /// Why no copy of the release runs here for `home`, if the cooperative's placement rules or the local owner's limits say
    /// so. What runs ends too: a rule about where data may be is none that waits.
    #[must_use]
    pub fn outside(&self, home: &MemberId, digest: &ManifestDigest) -> Option<(RefusalReason, String)> {
        let site = |member: &MemberId| self.view.state.member(member).map(|member| &member.member.site.jurisdiction);
        if let Some(here) = site(self.me()).filter(|here| !self.norms().placement.allow(digest, here)) {
            let why = format!("the cooperative's placement rules do not let release {digest} be served in {here}");
            return Some((RefusalReason::OutsideRules, why));
        }
        let Some(owner) = &self.owner else {
            return Some((RefusalReason::DeniedByOwner, "the owner's limits cannot be read".to_owned()));
        };
        if let Some(there) = site(home).filter(|there| !owner.allow_jurisdiction(there)) {
            let why = format!("{home} is in {there}, which the owner's limits.jurisdictions do not list");
            return Some((RefusalReason::DeniedByOwner, why));
        }
        match self.approval(digest) {
            Approval::Enacted(release) if !owner.allow_license(release) => {
                let why = format!(
                    "release {digest} is under {}, which the owner's limits.licenses do not list",
                    release.license
                );
                Some((RefusalReason::DeniedByOwner, why))
            }
            _ => None,
        }
    }

    /// What stops `member` from work, if anything does.
    #[must_use]
    pub fn halted(&self, member: &MemberId) -> Option<Halted> {
        self.view.state.halted(member, self.at)
    }

    /// Whether a vote or this owner keeps own work of that model away from `host`, also what runs there.
    #[must_use]
    pub fn keeps_from(&self, host: &MemberId, digest: &ManifestDigest) -> bool {
        let site = self.view.state.member(host).map(|host| &host.member.site.jurisdiction);
        let allows = |there| {
            let owner = self.owner.as_ref().is_some_and(|owner| owner.allow_jurisdiction(there));
            owner && self.norms().placement.allow(digest, there)
        };
        host != self.me() && site.is_some_and(|there| !allows(there))
    }

    /// For how long this operator has known that `member` is quarantined, if nothing else stops it. No clock but the own one
    /// says when a proof came to be.
    #[must_use]
    pub fn quarantined_for(&self, member: &MemberId) -> Option<Seconds> {
        let quarantined = matches!(self.halted(member)?, Halted::Quarantined { .. });
        quarantined.then(|| self.accused.get(member).map_or(Seconds(0), |since| self.at.since(*since)))
    }

    /// What stops this member from work with others, if anything does. Its own work on its own GPUs goes on.
    #[must_use]
    pub fn own_halted(&self) -> Option<Halted> {
        self.halted(self.me())
    }

    /// The order that lets no new copy of the model begin, while it holds.
    #[must_use]
    pub fn frozen(&self, digest: &ManifestDigest) -> Option<Suspension> {
        self.view.state.frozen(digest, self.at)
    }

    /// Whether others use only a part of what this member offers.
    #[must_use]
    pub fn on_probation(&self) -> bool {
        self.view.state.member(self.me()).is_some_and(|me| me.standing == MemberStanding::Probationary)
    }

    /// The members that take part, this one included.
    pub fn members(&self) -> impl Iterator<Item = &MemberId> {
        let members = self.view.state.members().iter();
        members.filter(|(_, state)| !state.standing.is_gone()).map(|(id, _)| id)
    }
}

/// Since when a member's own object has shown that it is quarantined.
fn accused_since(member: &Member) -> Option<UnixSeconds> {
    let shown = conditions::find(&member.status.as_ref()?.conditions, ConditionType::MayWork)?;
    let accused = shown.status == "False" && shown.reason == Reason::Quarantined.as_str();
    accused.then(|| UnixSeconds(time::to_unix(&shown.last_transition_time)))
}
