//! What the operators will say of a proposal or a vote, asked of the same rules before it is applied.

use koinon_core::body::proposal::Action;
use koinon_core::body::{Body, Proposal};
use koinon_core::ids::{MemberId, UnixSeconds};
use koinon_core::policy::{Invalid, State};
use koinon_core::statement::Statement;

/// Why the operators would refuse a proposal, with the fix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the operators would refuse this proposal ({rule}): {why}\n  fix: {fix}")]
pub struct Refused {
    /// Why, as the operators say it.
    pub why: Invalid,
    rule: &'static str,
    fix: String,
}

impl Refused {
    /// Whether nothing but further sponsors is missing.
    pub fn lacks_sponsors(&self) -> bool {
        matches!(self.why, Invalid::Sponsors { .. })
    }

    /// Whether nothing but the signatures of the new keys is missing.
    pub fn lacks_proof(&self) -> bool {
        matches!(self.why, Invalid::KeyNotProved(_))
    }
}

/// Judges a proposal as its author's operator and all others will.
///
/// # Errors
/// With the first rule that fails.
pub fn proposal(state: &State, statement: &Statement) -> Result<(), Refused> {
    let refuse = |why: Invalid| {
        let fix = fix(&why, statement);
        Refused { rule: why.category(), why, fix }
    };
    state.check_proposal(statement).map_err(refuse)?;
    // The operators count what stands before it in its author's log: a proposal that is applied now comes last there.
    let issued_at = statement.header().issued_at;
    let mine = state.proposals().values().filter(|other| other.author == *statement.author());
    let open = mine.filter(|other| other.id != statement.id() && other.proposal.closes_at > issued_at).count();
    let (open, allowed) = (u32::try_from(open).unwrap_or(u32::MAX), state.parameters().max_open_proposals);
    if open >= allowed { Err(refuse(Invalid::TooManyOpen { open, allowed })) } else { Ok(()) }
}

fn fix(why: &Invalid, statement: &Statement) -> String {
    match why {
        Invalid::Sponsors { needed, .. } => {
            let (from, file) = match admitted(statement) {
                Some(id) => (format!("--from admit-{id}"), format!("admit-{id}.yaml")),
                None => ("--from NAME".to_owned(), "FILE".to_owned()),
            };
            format!(
                "the charter wants {needed} members as sponsors\n    \
                 1. here: kubectl koinon propose {from} --out {file}\n    \
                 2. send {file} to another member, who runs: kubectl koinon propose --co-sign {file}\n    \
                 3. here again, with the file that comes back: kubectl koinon propose --signed {file}"
            )
        }
        Invalid::Interest(member) => format!(
            "have {member} sign it as well: propose --out FILE here, propose --co-sign FILE there, propose --signed FILE here"
        ),
        Invalid::UnknownMembership(_) | Invalid::UnknownParent { .. } => {
            "wait until this cluster has heard what the others decided (kubectl koinon members), or propose it anew".into()
        }
        Invalid::AnchorVoid | Invalid::AuthorNotActive(_) => {
            "only an Active member proposes: see this member's state with kubectl koinon members".into()
        }
        Invalid::WrongKey(_) => {
            "sign with the governance key that the charter or the application names: give its directory with --keys DIR, and compare with kubectl koinon keys show".into()
        }
        Invalid::TooManyOpen { .. } => {
            "wait until one of them is over (kubectl koinon proposals), or let another member propose this".into()
        }
        Invalid::IdOrKeyUsed => {
            "invite the applicant under another id; it joins with key files of its own (--keys DIR) that no member has had".into()
        }
        Invalid::TooManyMembers => "a member has to leave first".into(),
        Invalid::TooFewMembers(_) => "one of the two leaves: kubectl koinon leave".into(),
        Invalid::OtherRules { .. } => {
            "propose it anew with this version of kubectl koinon; `setRules` raises the rules in force, by one vote".into()
        }
        Invalid::UnknownCharter(_) | Invalid::UnknownTarget(_) => {
            "wait until this cluster has heard what the others decided (kubectl koinon members), or propose it anew".into()
        }
        Invalid::Charter(_) => "correct the numbers; the message names the bound that they leave".into(),
        Invalid::TooLateToCancel { .. } => {
            "it takes effect before a vote could stop it: propose the opposite instead".into()
        }
        Invalid::NoApplication => {
            "propose the draft that the operator made of the application: kubectl koinon propose --from admit-ID".into()
        }
        Invalid::Keys(_) => "correct the keys; the message names the rule that they break".into(),
        Invalid::KeyNotProved(_) => {
            "the member proves that it holds the keys\n    \
             1. here: kubectl koinon propose --out reset.yaml reset-keys …\n    \
             2. send reset.yaml to that member, who runs: kubectl koinon propose --co-sign reset.yaml\n    \
             3. here again, with the file that comes back: kubectl koinon propose --signed reset.yaml"
                .into()
        }
        Invalid::NotSilent { .. } => "it is there: nothing needs to be done".into(),
        Invalid::Evidence(_) => "name what it rests on, at most 16 pieces: --evidence ENTRY or --evidence FILE:TEXT".into(),
        Invalid::Proofs(_) => {
            "name the proofs that were weighed with --proof, at most 64; kubectl get kmem ID -o yaml shows them".into()
        }
        Invalid::NoSecondVote(_) => {
            "a second vote is proposed before the expulsion would have taken effect, once: propose the expulsion anew".into()
        }
        Invalid::NotOnProbation(_) | Invalid::NotDormant(_) => {
            "see this member's standing with kubectl koinon members".into()
        }
        Invalid::Norm(_) => "correct the numbers; the message names the rule that they break".into(),
        Invalid::Engine(_) => "correct the engine's file and propose it again".into(),
        Invalid::WrongScope { .. }
        | Invalid::WrongClass { .. }
        | Invalid::PinnedElsewhere
        | Invalid::Time { .. }
        | Invalid::Subject
        | Invalid::Term(_) => "make it anew with this version of kubectl koinon propose, without --co-sign or --signed".into(),
    }
}

/// The id of the member that a proposal admits.
pub fn admitted(statement: &Statement) -> Option<&MemberId> {
    match (statement.body(), statement.nested().map(Statement::body)) {
        (Body::Proposal(proposal), Some(Body::Application(application)))
            if matches!(proposal.action, Action::Admit(_)) =>
        {
            Some(&application.member.id)
        }
        _ => None,
    }
}

/// Whether a vote that is dated `at` counts as early on `proposal`.
pub fn too_early(state: &State, proposal: &Proposal, at: UnixSeconds) -> bool {
    at < proposal.opens_at.minus(state.parameters().clock_tolerance_seconds)
}

#[cfg(test)]
#[path = "precheck_tests.rs"]
mod tests;
