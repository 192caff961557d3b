//! What an error of GPUs shall mean, as one word of the command line says it.

use std::str::FromStr;

use koinon_core::capacity::Health;
use koinon_core::gpu::words::{Action, Offer, Reason, Work, badness};
use koinon_core::gpu::xid::policy::{XidExtension, XidPolicy, XidPolicyError, XidRow};
use koinon_core::gpu::xid::{Xid, XidClass};

/// For how long a degraded device is so after the last report, unless it is said.
const HOLD: u32 = 3_600;

/// What one error shall mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XidChange {
    code: u32,
    /// None takes the vote's word back.
    meaning: Option<Given>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Given {
    state: Health,
    reason: Option<Reason>,
    action: Option<Action>,
    work: Option<Work>,
    hold: Option<u32>,
}

impl FromStr for XidChange {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (code, said) = text.split_once('=').ok_or("write CODE=STATE, such as 94=Unhealthy, or CODE=none")?;
        let code = code.parse().map_err(|_| format!("{code:?} is no code of NVIDIA's catalogue"))?;
        if said == "none" {
            return Ok(Self { code, meaning: None });
        }
        let (state, more) = said.split_once(',').unwrap_or((said, ""));
        let mut given = Given { state: state_of(state)?, reason: None, action: None, work: None, hold: None };
        for part in more.split(',').filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').ok_or_else(|| format!("{part:?} is no KEY=VALUE"))?;
            let wrong = |error: koinon_core::ids::IdError| error.to_string();
            match key {
                "reason" => given.reason = Some(value.parse().map_err(wrong)?),
                "action" => given.action = Some(word(value, Action::ALL)?),
                "work" => given.work = Some(word(value, Work::ALL)?),
                "hold" => given.hold = Some(value.parse().map_err(|_| format!("{value:?} is no number of seconds"))?),
                _ => return Err(format!("{key:?} is none of reason, action, work and hold")),
            }
        }
        Ok(Self { code, meaning: Some(given) })
    }
}

fn state_of(text: &str) -> Result<Health, String> {
    match text {
        "Healthy" => Ok(Health::Healthy),
        "Degraded" => Ok(Health::Degraded),
        "Unhealthy" => Ok(Health::Unhealthy),
        _ => Err(format!("{text:?} is none of Healthy, Degraded, Unhealthy and none")),
    }
}

fn word<T: Copy + ToString>(text: &str, all: &[T]) -> Result<T, String> {
    let known = || all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let found = all.iter().copied().find(|one| one.to_string() == text);
    found.ok_or_else(|| format!("{text:?} is none of {}", known()))
}

impl Given {
    /// The row: what is not said is as the state has it, and no milder than in the table of this release.
    fn row(self, code: u32) -> XidRow {
        let (class, action, offer, work, hold) = match self.state {
            Health::Unhealthy => (XidClass::Reset, Action::ResetGpu, Offer::Nothing, Work::Drain, 0),
            Health::Degraded => (XidClass::Workflow, Action::Investigate, Offer::Nothing, Work::Keep, HOLD),
            Health::Healthy | Health::Unknown => (XidClass::Info, Action::None, Offer::Any, Work::Keep, 0),
        };
        let policy = XidPolicy::builtin();
        let known = policy.knows(Xid(code)).then(|| policy.plain(Xid(code)));
        let stricter = known.as_ref().filter(|known| badness(known.state) <= badness(self.state));
        let hold_known = stricter.and_then(|known| u32::try_from(known.hold.0).ok()).unwrap_or(0);
        // A name of the built-in table for a milder state would mislead.
        let named = stricter.filter(|known| known.state == self.state).map(|known| known.reason.clone());
        let default = || named.or_else(|| format!("XID{code}").parse().ok());
        XidRow {
            code,
            class: stricter.map_or(class, |known| known.class.max(class)),
            state: self.state,
            reason: self.reason.or_else(default).unwrap_or(koinon_core::gpu::words::Cause::UnknownXid.into()),
            action: self.action.unwrap_or_else(|| stricter.map_or(action, |known| known.action.max(action))),
            offer: stricter.map_or(offer, |known| known.offer.max(offer)),
            work: self.work.unwrap_or_else(|| stricter.map_or(work, |known| known.work.max(work))),
            hold_seconds: self.hold.unwrap_or(if self.state == Health::Unhealthy {
                hold
            } else {
                hold.max(hold_known)
            }),
        }
    }
}

/// Makes the changes to the rows that are in force.
///
/// # Errors
/// Where a row would be milder than what the table of this release says, or contradicts itself.
pub fn apply(rows: &mut Vec<XidRow>, changes: Vec<XidChange>) -> Result<(), XidPolicyError> {
    if changes.is_empty() {
        return Ok(());
    }
    for XidChange { code, meaning } in changes {
        rows.retain(|row| row.code != code);
        rows.extend(meaning.map(|given| given.row(code)));
    }
    rows.sort_by_key(|row| row.code);
    XidPolicy::with(&XidExtension { rows: rows.clone() }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(rows: &mut Vec<XidRow>, said: &[&str]) -> Result<(), String> {
        let changes = said.iter().map(|said| said.parse()).collect::<Result<_, _>>()?;
        apply(rows, changes).map_err(|error| error.to_string())
    }

    #[test]
    fn a_state_alone_makes_a_whole_row_in_the_order_of_codes() {
        let mut rows = Vec::new();
        applied(&mut rows, &["200=Degraded", "43=Unhealthy"]).unwrap();
        let told: Vec<_> = rows.iter().map(|row| (row.code, row.meaning().to_string())).collect();
        assert_eq!(
            told[0],
            (43, "Unhealthy (XID43; class reset, action ResetGPU, offer Nothing, work Drain, hold 0 s)".into())
        );
        assert_eq!(
            told[1],
            (
                200,
                "Degraded (XID200; class workflow, action Investigate, offer Nothing, work Keep, hold 3600 s)".into()
            )
        );
        applied(&mut rows, &["43=none", "200=Unhealthy,reason=Fire,action=Replace,work=DrainNode"]).unwrap();
        let told: Vec<_> = rows.iter().map(|row| row.meaning().to_string()).collect();
        assert_eq!(told, ["Unhealthy (Fire; class reset, action Replace, offer Nothing, work DrainNode, hold 0 s)"]);
    }

    #[test]
    fn whatever_code_of_the_table_is_made_unhealthy_is_no_milder_in_anything() {
        for code in koinon_core::gpu::xid::catalogue::builtin().keys() {
            let said = format!("{}=Unhealthy", code.0);
            assert_eq!(applied(&mut Vec::new(), &[&said]), Ok(()), "{said}");
        }
    }

    #[test]
    fn a_milder_word_is_refused_with_what_the_table_says() {
        let refused = applied(&mut Vec::new(), &["79=Degraded"]).unwrap_err();
        assert!(refused.contains("XID 79") && refused.contains("which is Unhealthy (FallenOffBus"), "{refused}");
        let refused = applied(&mut Vec::new(), &["79=Unhealthy,action=Watch"]).unwrap_err();
        assert!(refused.contains("milder"), "{refused}");
    }

    #[test]
    fn what_is_no_change_is_named() {
        for (wrong, said) in [
            ("94", "CODE=STATE"),
            ("x=Unhealthy", "no code"),
            ("94=Bad", "none of Healthy"),
            ("94=Degraded,hold", "no KEY=VALUE"),
            ("94=Degraded,hold=long", "no number"),
            ("94=Degraded,colour=red", "none of reason"),
            ("94=Degraded,action=Pray", "none of None"),
            ("94=Degraded,reason=two words", "reason"),
        ] {
            let error = wrong.parse::<XidChange>().unwrap_err();
            assert!(error.contains(said), "{wrong}: {error}");
        }
        assert!(applied(&mut Vec::new(), &["94=Degraded,hold=1"]).is_err(), "shorter than any hold");
    }
}
