//! What would still change the result of a vote: each possibility is tried on the count itself, none is argued.

use std::collections::BTreeMap;

use koinon_core::body::charter::ClassRules;
use koinon_core::body::entry::Outcome;
use koinon_core::body::proposal::Choice;
use koinon_core::ids::ControlGroup;
use koinon_core::policy::{BallotBox, DelegationFate, Electorate, Refused, Through, Verdict, VoteRecord, overrules};
use koinon_core::tally::{Counts, tally};
use serde::Serialize;

/// An owner with a vote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elector {
    /// What people call it.
    pub name: String,
    /// What it counts as now, if it does.
    pub choice: Option<Choice>,
    /// Owners that are counted as it votes, because they have left it to one of its members.
    pub carries: u32,
}

/// A count that is not over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// As it stands.
    pub counts: Counts,
    /// How many may vote.
    pub electors: u32,
    /// How the class decides.
    pub rules: ClassRules,
    /// Those whose voice can still be added or changed.
    pub movable: Vec<Elector>,
    /// Whether the same was refused not long ago.
    pub cools: bool,
}

/// Something that would change the result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Way {
    /// What they vote now; absent if they have not voted.
    pub instead_of: Option<Choice>,
    /// What they would vote.
    pub choice: Choice,
    /// How many of them it takes.
    pub needed: usize,
    /// Whose.
    pub of: Vec<String>,
    /// Whether any so many of them will do; otherwise it takes just these.
    pub any: bool,
    /// What it would amount to.
    pub becomes: Outcome,
}

/// All choices, in the order in which people are told of them.
const CHOICES: [Choice; 4] = [Choice::Yes, Choice::No, Choice::Abstain, Choice::Veto];

impl Standing {
    /// What can still move in `ballot`. Votes that are `last` words cannot be replaced.
    pub fn of(electorate: &Electorate, ballot: &BallotBox, votes: &[VoteRecord], last: bool) -> Self {
        let movable = electorate.electors.iter().filter_map(|(group, members)| {
            let void = |vote: &VoteRecord| vote.verdict == Verdict::Equivocation && members.contains(&vote.author);
            let counted = ballot.counted.get(group);
            let fixed = match counted.map(|counted| &counted.through) {
                Some(Through::Recusal) => true,
                Some(Through::Vote(_)) => last,
                Some(Through::Delegate(_)) => false,
                None => votes.iter().any(void),
            };
            let carried = ballot.stand_ins.iter().filter(|stand_in| {
                members.contains(&stand_in.to)
                    && matches!(stand_in.fate, DelegationFate::Counts | DelegationFate::Waits)
            });
            let carries = u32::try_from(carried.count()).unwrap_or(u32::MAX);
            let choice = counted.map(|counted| counted.choice);
            (!fixed).then(|| Elector { name: name(group, members.iter()), choice, carries })
        });
        Self {
            counts: ballot.tally.counts,
            electors: ballot.tally.electors,
            rules: electorate.rules,
            movable: movable.collect(),
            cools: false,
        }
    }

    /// The same, for what may have been refused not long ago.
    pub fn after(self, refused: Option<Refused>) -> Self {
        Self { cools: refused.is_some(), ..self }
    }

    fn amounts_to(&self, counts: Counts) -> Outcome {
        let tally = tally(counts, self.electors, &self.rules);
        if self.cools && !overrules(&tally) { Outcome::CoolDown } else { tally.outcome }
    }

    /// What it amounts to as it stands.
    pub fn outcome(&self) -> Outcome {
        self.amounts_to(self.counts)
    }

    /// What it amounts to once `of` vote `choice`.
    pub fn with<'a>(&self, choice: Choice, of: impl IntoIterator<Item = &'a Elector>) -> (Counts, Outcome) {
        let mut counts = self.counts;
        for elector in of {
            let voices = elector.carries.saturating_add(1);
            if let Some(before) = elector.choice {
                *field(&mut counts, before) = field(&mut counts, before).saturating_sub(voices);
            }
            *field(&mut counts, choice) = field(&mut counts, choice).saturating_add(voices);
        }
        (counts, self.amounts_to(counts))
    }

    /// The fewest voices that would change the result: by those who have not voted, then by those who might think again.
    pub fn ways(&self) -> Vec<Way> {
        let mut by_choice: BTreeMap<Option<Choice>, Vec<&Elector>> = BTreeMap::new();
        for elector in &self.movable {
            by_choice.entry(elector.choice).or_default().push(elector);
        }
        let mut ways = Vec::new();
        for (before, electors) in by_choice {
            // Where no share of vetoes blocks, a veto is a no.
            let may =
                |choice: &Choice| Some(*choice) != before && (*choice != Choice::Veto || self.rules.veto.is_some());
            for choice in CHOICES.into_iter().filter(may) {
                ways.extend(self.least(before, choice, &electors));
            }
        }
        ways
    }

    fn least(&self, instead_of: Option<Choice>, choice: Choice, electors: &[&Elector]) -> Vec<Way> {
        let now = self.outcome();
        let mut alone: BTreeMap<Outcome, Vec<String>> = BTreeMap::new();
        for elector in electors {
            let (_, becomes) = self.with(choice, [*elector]);
            if becomes != now {
                alone.entry(becomes).or_default().push(elector.name.clone());
            }
        }
        if !alone.is_empty() {
            let way = |(becomes, of)| Way { instead_of, choice, needed: 1, of, any: true, becomes };
            return alone.into_iter().map(way).collect();
        }
        let mut heaviest: Vec<&Elector> = electors.to_vec();
        heaviest.sort_by_key(|elector| (std::cmp::Reverse(elector.carries), elector.name.clone()));
        let any = heaviest.first().map(|elector| elector.carries) == heaviest.last().map(|elector| elector.carries);
        for needed in 2..=heaviest.len() {
            let (_, becomes) = self.with(choice, heaviest[..needed].iter().copied());
            if becomes != now {
                let of = if any { &heaviest[..] } else { &heaviest[..needed] };
                let of = of.iter().map(|elector| elector.name.clone()).collect();
                return vec![Way { instead_of, choice, needed, of, any, becomes }];
            }
        }
        Vec::new()
    }
}

fn field(counts: &mut Counts, choice: Choice) -> &mut u32 {
    match choice {
        Choice::Yes => &mut counts.yes,
        Choice::No => &mut counts.no,
        Choice::Abstain => &mut counts.abstain,
        Choice::Veto => &mut counts.veto,
    }
}

/// An owner as its member's name, or as the names of its members.
pub fn name<'a>(group: &ControlGroup, members: impl Iterator<Item = &'a koinon_core::ids::MemberId>) -> String {
    let members: Vec<&str> = members.map(|member| member.as_str()).collect();
    match members.as_slice() {
        [] => group.to_string(),
        several => several.join("/"),
    }
}

/// What an outcome does to a proposal.
pub fn verb(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Passed => "passes it",
        Outcome::Rejected => "rejects it",
        Outcome::QuorumNotMet => "leaves too few that take part",
        Outcome::Vetoed => "blocks it",
        Outcome::Stale => "makes it stale",
        Outcome::Withdrawn => "takes it back",
        Outcome::Refuted => "refutes it",
        Outcome::Unheard => "leaves it without effect",
        Outcome::CoolDown => "leaves too few for what was refused not long ago",
    }
}

/// A choice as a word.
pub fn word(choice: Choice) -> &'static str {
    match choice {
        Choice::Yes => "yes",
        Choice::No => "no",
        Choice::Abstain => "abstention",
        Choice::Veto => "veto",
    }
}

fn words(choice: Choice) -> &'static str {
    match choice {
        Choice::Abstain => "abstentions",
        Choice::Veto => "vetoes",
        one => word(one),
    }
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { instead_of, choice, needed, of, any, becomes } = self;
        let (one, several, does) = (word(*choice), words(*choice), verb(*becomes));
        match (instead_of, needed, any) {
            (None, 1, _) => write!(f, "one {one} of {} {does}", listed(of, "or")),
            (None, needed, true) => write!(f, "{needed} more {several} among {}: that {does}", listed(of, "and")),
            (None, needed, false) => write!(f, "{needed} more {several}, of {}: that {does}", listed(of, "and")),
            (Some(before), 1, _) => {
                write!(f, "{} changing from {} to {one} {does}", listed(of, "or"), word(*before))
            }
            (Some(before), needed, _) => {
                write!(f, "{needed} among {} changing from {} to {one}: that {does}", listed(of, "and"), word(*before))
            }
        }
    }
}

/// Names as people list them.
pub fn listed<T: AsRef<str>>(names: &[T], last: &str) -> String {
    match names {
        [] => "nobody".to_owned(),
        [one] => one.as_ref().to_owned(),
        [first @ .., end] => {
            let first: Vec<&str> = first.iter().map(AsRef::as_ref).collect();
            format!("{} {last} {}", first.join(", "), end.as_ref())
        }
    }
}

#[cfg(test)]
#[path = "prospect_tests.rs"]
mod tests;
