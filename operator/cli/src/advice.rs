//! What to do about a vote that does not count.

use koinon_core::policy::Verdict;

/// What its author can do, and until when it helps. Nothing where the vote counts.
pub fn advice(verdict: Verdict) -> Option<&'static str> {
    Some(match verdict {
        Verdict::Counted => return None,
        Verdict::Superseded => "nothing is lost: the later vote counts; vote again before the close to change it",
        Verdict::Equivocation => {
            "nothing helps on this proposal; use one machine to vote, or give each vote a higher --vseq than the last"
        }
        Verdict::AlreadyFinal => "nothing helps: the first vote stands where the charter says closeWhenAllVoted",
        Verdict::NotElector => {
            "the members of the version that the proposal names vote on it, without those whom it is about or who have an interest: propose it anew if that has changed"
        }
        Verdict::WrongKeyRole => {
            "vote again with the governance key that is in force: compare kubectl koinon keys show with kubectl get kmem MEMBER -o yaml, and give its directory with --keys DIR"
        }
        Verdict::Revoked => "vote again with the key that took the place of the revoked one, while the vote is open",
        Verdict::TooEarly => "vote again once the vote is open; set this machine's clock if it is behind",
        Verdict::TooLate => {
            "nothing helps once the vote is closed; was this machine's clock ahead? Let the proposal be made anew"
        }
        Verdict::AnchoredTooLate => {
            "apply votes while the operator still has time to anchor them: within the charter's graceSeconds of the close; see that it is running (kubectl koinon doctor)"
        }
        Verdict::VetoWithoutGround => "vote again, with --ground legal, safety, solvency or charter",
        Verdict::Recused => {
            "that member abstains on this proposal: a recusal is not taken back; the next proposal is not affected"
        }
        Verdict::NotInBox => {
            "nothing helps: enough operators must hold a vote by the close and graceSeconds; vote earlier, and see that this member's operator reaches the others (kubectl koinon doctor)"
        }
        Verdict::TooManyVotes => "the last vote below that number counts; nothing replaces it any more",
        Verdict::LogForked => {
            "the operator's key was used twice at one position (two clusters, or a restored backup): kubectl koinon doctor says more; its owner needs a new operator key"
        }
        Verdict::OverBudget => "wait for the next day of the log's budget (budgets.entriesPerDay), then vote again",
        Verdict::NoProposal => {
            "the proposal is not valid, or has not reached this cluster yet: kubectl koinon proposal says which"
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_counts_needs_no_advice() {
        assert_eq!(advice(Verdict::Counted), None);
        assert!(advice(Verdict::VetoWithoutGround).unwrap().contains("--ground"));
    }
}
