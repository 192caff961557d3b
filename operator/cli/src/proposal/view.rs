//! Everything that the logs here say of one proposal, as it is shown and as `-o json` prints it.

use std::collections::BTreeSet;

use jiff::tz::TimeZone;
use koinon_core::body::Body;
use koinon_core::body::entry::Outcome;
use koinon_core::body::proposal::{Choice, Ground};
use koinon_core::ids::{BoxRoot, MemberId, PolicyHash, PublicKey, Seq, StatementId, UnixSeconds};
use koinon_core::policy::{
    BallotBox, Commons, DelegationFate, Electorate, Phase, ProposalState, Refused, State, Through, Verdict, VoteRecord,
    overrules,
};
use koinon_core::statement::Statement;
use serde::Serialize;

use super::hearing::{Hearing, hearing};
use super::steps::{Seals, Step, seals, steps};
use super::thresholds::{Thresholds, thresholds};
use crate::advice::advice;
use crate::moment::Moment;
use crate::output::one_line;
use crate::prospect::{Standing, Way};

/// A proposal as this cluster's log has it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct View {
    /// Its id.
    pub id: StatementId,
    /// Its title.
    pub title: String,
    /// The case for it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// Whose.
    pub author: MemberId,
    /// When it was signed.
    pub signed: Moment,
    /// What it would do.
    pub action: &'static str,
    /// How it is decided.
    pub class: String,
    /// The policy chain that it changes, and the version that it follows there.
    pub scope: String,
    /// See `scope`.
    pub parent: PolicyHash,
    /// Which attempt to follow that version.
    pub term: u32,
    /// By which rules it is judged.
    pub rules: u32,
    /// Where it stands.
    pub state: &'static str,
    /// What that means, and what to do.
    pub meaning: String,
    /// The version that it made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<MadeVersion>,
    /// Which box the tally is of.
    pub ballot: Ballot,
    /// The numbers that decide.
    pub thresholds: Option<Thresholds>,
    /// What it amounts to as it stands.
    pub as_it_stands: Outcome,
    /// Who decides, and how each one counts.
    pub members: Vec<Voice>,
    /// Every vote that is anchored here.
    pub votes: Vec<VoteView>,
    /// Votes that are left to others.
    pub delegations: Vec<Delegated>,
    /// Who has declared an interest.
    pub recusals: BTreeSet<MemberId>,
    /// Whether the member that it is about was heard.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hearing: Option<Hearing>,
    /// What would still change the result.
    pub ways: Vec<Way>,
    /// What operators have signed.
    pub seals: Seals,
    /// What happens when.
    pub next: Vec<Step>,
}

/// A version in a policy chain.
#[derive(Debug, Serialize)]
pub struct MadeVersion {
    /// Its name.
    pub hash: PolicyHash,
    /// Counted from the charter.
    pub number: Option<u64>,
}

/// Which box a tally is of.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ballot {
    /// Where it comes from.
    pub source: Source,
    /// Its root.
    pub root: BoxRoot,
    /// How many entries are in it.
    pub entries: usize,
    /// The sealed box, if that is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sealed_otherwise: Option<BoxRoot>,
}

/// Where a box comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Source {
    /// Enough operators have sealed it.
    Sealed,
    /// Enough operators offer it; it is not sealed yet.
    Offered,
    /// It is what this cluster holds; others may hold more, or less.
    Held,
    /// A checkpoint has settled it, and its votes are in an archive.
    Archived,
}

/// How one member counts.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Voice {
    /// Which member.
    pub member: MemberId,
    /// As what it counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub choice: Option<Choice>,
    /// How that came about, or why it does not count.
    pub how: String,
}

/// A vote and what became of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VoteView {
    /// Its id.
    pub id: StatementId,
    /// Whose.
    pub member: MemberId,
    /// How.
    pub choice: Choice,
    /// Its number among its author's own.
    pub vseq: u32,
    /// Why, for a veto.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ground: Option<Ground>,
    /// For the others to read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The key that signed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PublicKey>,
    /// When it was signed.
    pub signed: Moment,
    /// When its author's operator anchored it.
    pub anchored: Moment,
    /// The log and the position there.
    pub log: PublicKey,
    /// See `log`.
    pub seq: Seq,
    /// The anchor's entry, which is what a box of rules 2 names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry: Option<StatementId>,
    /// Whether it counts.
    pub verdict: &'static str,
    /// In words.
    pub why: String,
    /// What to do if it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<&'static str>,
}

/// A vote that is left to another.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Delegated {
    /// Whose.
    pub from: MemberId,
    /// To whom.
    pub to: MemberId,
    /// What becomes of it here.
    pub fate: &'static str,
}

impl View {
    /// What `commons` says of `proposal` at `now`.
    pub fn new(commons: &Commons, proposal: &ProposalState, now: UnixSeconds, zone: &TimeZone) -> Self {
        let state = commons.state();
        let (body, phase) = (&proposal.proposal, state.phase(proposal, now));
        let electorate = state.electorate(body);
        let certificate = proposal.certificates.first();
        let votes: Vec<VoteView> = proposal.votes.iter().map(|vote| vote_view(commons, vote, zone)).collect();
        let standing = electorate.as_ref().map(|electorate| {
            Standing::of(electorate, &proposal.ballot, &proposal.votes, proposal.parameters.close_when_all_voted)
                .after(proposal.refused)
        });
        let counting = matches!(phase, Phase::Pending { .. } | Phase::Open { .. });
        let version = match &phase {
            Phase::Enacted { version } => {
                Some(MadeVersion { hash: *version, number: state.version(version).map(|version| version.number) })
            }
            _ => None,
        };
        Self {
            id: proposal.id,
            title: body.title.to_string(),
            text: body.text.to_string(),
            author: proposal.author.clone(),
            signed: Moment::new(proposal.issued_at, zone),
            action: body.action.name(),
            class: body.class.to_string(),
            scope: body.scope.to_string(),
            parent: body.parent,
            term: body.term,
            rules: proposal.rules,
            state: phase.name(),
            meaning: meaning(state, proposal, &phase, zone),
            version,
            ballot: ballot(proposal),
            thresholds: electorate.as_ref().map(|electorate| thresholds(&electorate.rules, &proposal.ballot.tally)),
            as_it_stands: certificate.map_or_else(|| stands(proposal), |sealed| sealed.outcome),
            members: voices(state, proposal, electorate.as_ref()),
            votes,
            delegations: delegations(&proposal.ballot),
            recusals: recusals(commons, proposal),
            hearing: hearing(commons, proposal, now, zone),
            ways: standing.filter(|_| counting).map(|standing| standing.ways()).unwrap_or_default(),
            seals: seals(proposal),
            next: steps(proposal, &phase, now, zone),
        }
    }
}

fn stands(proposal: &ProposalState) -> Outcome {
    let tally = &proposal.ballot.tally;
    let cools = proposal.refused.is_some() && !overrules(tally);
    if cools { Outcome::CoolDown } else { tally.outcome }
}

fn ballot(proposal: &ProposalState) -> Ballot {
    let counted = &proposal.ballot;
    let sealed = proposal.certificates.first().map(|certificate| certificate.root);
    let is_settled = proposal.enacted.as_ref().is_some_and(|enacted| enacted.enact_seals.is_empty());
    let source = match sealed {
        _ if is_settled => Source::Archived,
        Some(root) if root == counted.root => Source::Sealed,
        _ if proposal.rules >= 2 && proposal.offers.len() >= proposal.quorum => Source::Offered,
        _ => Source::Held,
    };
    let sealed_otherwise = sealed.filter(|root| *root != counted.root);
    Ballot { source, root: counted.root, entries: counted.ids.len(), sealed_otherwise }
}

/// A vote as its log has it.
pub fn vote_view(commons: &Commons, vote: &VoteRecord, zone: &TimeZone) -> VoteView {
    let at = vote.anchor;
    let anchor = commons
        .replica()
        .all(&at.log)
        .find(|entry| entry.seq() == at.seq && entry.statement.nested().is_some_and(|inner| inner.id() == vote.id));
    let statement = anchor.and_then(|entry| entry.statement.nested());
    let reason = match statement.map(Statement::body) {
        Some(Body::Vote(body)) => body.reason.as_ref().map(ToString::to_string),
        _ => None,
    };
    VoteView {
        id: vote.id,
        member: vote.author.clone(),
        choice: vote.choice,
        vseq: vote.vseq,
        ground: vote.ground,
        reason,
        key: statement.map(|statement| statement.header().key),
        signed: Moment::new(vote.issued_at, zone),
        anchored: Moment::new(at.at, zone),
        log: at.log,
        seq: at.seq,
        entry: anchor.map(|entry| entry.id()),
        verdict: vote.verdict.name(),
        why: vote.verdict.to_string(),
        advice: advice(vote.verdict),
    }
}

/// How each member of the version that the proposal names counts.
fn voices(state: &State, proposal: &ProposalState, electorate: Option<&Electorate>) -> Vec<Voice> {
    let (Some(electorate), Some(membership)) = (electorate, state.membership_version(&proposal.proposal.membership))
    else {
        return Vec::new();
    };
    let voice = |member: &MemberId| {
        let owner = electorate.electors.iter().find(|(_, members)| members.contains(member));
        let Some((group, members)) = owner else { return (None, left_out(proposal, member).to_owned()) };
        let own = proposal.votes.iter().filter(|vote| vote.author == *member);
        match proposal.ballot.counted.get(group).map(|counted| (counted.choice, &counted.through)) {
            Some((choice, Through::Vote(id))) => {
                let by = proposal.votes.iter().find(|vote| vote.id == *id).map(|vote| &vote.author);
                match by {
                    Some(by) if by != member => (Some(choice), format!("by {by}: one owner, one vote")),
                    _ => (Some(choice), "voted".to_owned()),
                }
            }
            Some((choice, Through::Recusal)) => (Some(choice), "abstains: it has declared an interest".to_owned()),
            Some((choice, Through::Delegate(to))) => (Some(choice), format!("through {to}, to whom it left its vote")),
            None => match (own.map(|vote| vote.verdict).next_back(), members.len()) {
                (Some(verdict), _) => (None, format!("its vote does not count: {verdict}")),
                (None, 1) => (None, "has not voted".to_owned()),
                (None, _) => (None, "no member of this owner has voted".to_owned()),
            },
        }
    };
    membership
        .members
        .keys()
        .map(|member| (member, voice(member)))
        .map(|(member, (choice, how))| Voice { member: member.clone(), choice, how })
        .collect()
}

fn left_out(proposal: &ProposalState, member: &MemberId) -> &'static str {
    let body = &proposal.proposal;
    if body.subject.as_ref() == Some(member) {
        "has no vote: it is about this member"
    } else if body.interested.contains(member) {
        "has no vote: the proposal names its interest"
    } else {
        "has no vote on this"
    }
}

fn delegations(ballot: &BallotBox) -> Vec<Delegated> {
    let told = |fate| match fate {
        DelegationFate::Counts => "counts as the other voted",
        DelegationFate::Waits => "counts once the other votes",
        DelegationFate::Own => "is not needed: it has voted itself, or abstains",
        DelegationFate::NotElector => "has no effect: one of the two has no vote here",
        DelegationFate::OtherRecused => "has no effect: the other abstains for an interest",
        DelegationFate::Equivocation => "has no effect: its author voted in two ways under one number",
        DelegationFate::OverCap => "has no effect: as many as the charter allows vote through the other already",
    };
    let delegated = ballot.stand_ins.iter();
    delegated.map(|s| Delegated { from: s.from.clone(), to: s.to.clone(), fate: told(s.fate) }).collect()
}

fn recusals(commons: &Commons, proposal: &ProposalState) -> BTreeSet<MemberId> {
    let entries = proposal.entries.iter().filter_map(|entry| commons.replica().get(entry)?.statement.nested());
    entries.filter(|said| matches!(said.body(), Body::Recusal(_))).map(|said| said.author().clone()).collect()
}

fn meaning(state: &State, on: &ProposalState, phase: &Phase, zone: &TimeZone) -> String {
    let title = |id: &StatementId| {
        state
            .proposals()
            .get(id)
            .map_or_else(|| id.to_string(), |other| format!("{} ({id})", one_line(&other.proposal.title)))
    };
    match phase {
        Phase::Invalid(why) => format!("it cannot be voted on: {why}"),
        Phase::Pending { .. } => "its vote has not opened: a vote that is dated earlier does not count".to_owned(),
        Phase::Open { .. } => match &on.refused {
            Some(refused) => format!("votes count; {}", refusal(state, refused, zone)),
            None => "votes count".to_owned(),
        },
        Phase::Closing { sealed, needed } => {
            format!("votes no longer count; {sealed} of the {needed} operators that must agree have sealed one box")
        }
        Phase::Queued { signed, needed, .. } => {
            format!("it has passed; {signed} of {needed} operators have signed that it takes effect")
        }
        Phase::AwaitingSlot { term } => format!(
            "it has passed and was not enacted in time: first operators say what they signed, up to term {term}; nothing is to be done"
        ),
        Phase::Enacted { .. } => "it is in force".to_owned(),
        Phase::Stopped { target } => format!("it has stopped {}", title(target)),
        Phase::Rejected => "too few were for it".to_owned(),
        Phase::QuorumNotMet => "too few took part".to_owned(),
        Phase::Vetoed => "enough vetoes blocked it".to_owned(),
        Phase::Appealed { by } => {
            let member = on.proposal.subject.as_ref().map(ToString::to_string).unwrap_or_default();
            format!(
                "it has passed, and {member} has appealed: propose the second vote: kubectl koinon propose expel {member} --appeal {by}"
            )
        }
        Phase::Refuted => "the member that it is about has shown that it is there".to_owned(),
        Phase::Unheard => "the member that it is about was not heard: propose it again".to_owned(),
        Phase::CoolDown { until, .. } => {
            let why = on.refused.map(|refused| refusal(state, &refused, zone)).unwrap_or_default();
            format!(
                "{why}, and they did not: propose it again with a vote that opens from {} on",
                Moment::new(*until, zone)
            )
        }
        Phase::Withdrawn => "its author took it back".to_owned(),
        Phase::Cancelled { by } => format!("{} stopped it", title(by)),
        Phase::Stalled => "too few operators agreed on its box in time; nothing happened: propose it again".to_owned(),
        Phase::Stale => "the members changed too much since; nothing happened: propose it again".to_owned(),
        Phase::Superseded { by } => format!("{} took its place in the chain: propose it again", title(by)),
        Phase::Expired => "its time is over; if it had passed, too few operators signed: propose it again".to_owned(),
    }
}

/// What an earlier refusal asks for.
pub fn refusal(state: &State, refused: &Refused, zone: &TimeZone) -> String {
    let title = state.proposals().get(&refused.by).map(|other| one_line(&other.proposal.title)).unwrap_or_default();
    let how = match refused.how {
        Outcome::Vetoed => "vetoed",
        Outcome::Withdrawn => "taken back by the same owner",
        _ => "rejected",
    };
    format!(
        "the same was {how} in {title} ({}): if its vote opens before {}, two thirds of all electors must say yes",
        refused.by,
        Moment::new(refused.until, zone)
    )
}

impl VoteView {
    /// Whether it counts.
    pub fn counts(&self) -> bool {
        self.verdict == Verdict::Counted.name()
    }
}
