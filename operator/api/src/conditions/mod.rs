//! Conditions: closed sets of types and reasons, and the one way to set a condition.
//!
//! Events and metric labels use the same [`Reason`]s, so that whoever reads one can search for the other.

mod reasons;
mod types;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde::Serialize;
use serde_json::Value;

pub use reasons::Reason;
pub use types::ConditionType;

/// A message longer than this is cut: the API server refuses the whole status from 32 KiB on, and nobody reads that far.
pub const MAX_MESSAGE_BYTES: usize = 2048;

/// The three values of a condition. Unknown is neither good nor bad.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// Nobody can tell at present.
    Unknown,
}

impl ConditionStatus {
    /// As Kubernetes writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for ConditionStatus {
    fn from(value: bool) -> Self {
        if value { Self::True } else { Self::False }
    }
}

/// What setting a condition did to the list.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub enum Change {
    /// Nothing but times would differ; no write is due.
    None,
    /// Reason, message or generation differ.
    Detail,
    /// The status itself differs: worth an event.
    Transition,
}

/// What is to be said with a condition.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Verdict {
    /// The condition's value.
    pub status: ConditionStatus,
    /// Why.
    pub reason: Reason,
    /// The numbers behind it, and what to do.
    pub message: String,
}

impl Verdict {
    /// It holds.
    #[must_use]
    pub fn yes(reason: Reason, message: impl Into<String>) -> Self {
        Self { status: ConditionStatus::True, reason, message: message.into() }
    }

    /// It does not hold.
    #[must_use]
    pub fn no(reason: Reason, message: impl Into<String>) -> Self {
        Self { status: ConditionStatus::False, reason, message: message.into() }
    }

    /// Nobody can tell at present.
    #[must_use]
    pub fn unknown(reason: Reason, message: impl Into<String>) -> Self {
        Self { status: ConditionStatus::Unknown, reason, message: message.into() }
    }
}

/// Sets one condition, keeping `lastTransitionTime` unless the status changes. The list stays sorted by type, so that
/// two writers of the same facts write the same bytes.
pub fn set(
    conditions: &mut Vec<Condition>,
    type_: ConditionType,
    verdict: Verdict,
    generation: Option<i64>,
    now: &Time,
) -> Change {
    let Verdict { status, reason, message } = verdict;
    let fresh = Condition {
        type_: type_.as_str().to_owned(),
        status: status.as_str().to_owned(),
        reason: reason.as_str().to_owned(),
        message: cut(message),
        observed_generation: generation,
        last_transition_time: now.clone(),
    };
    let Some(old) = conditions.iter_mut().find(|c| c.type_ == fresh.type_) else {
        conditions.push(fresh);
        conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
        return Change::Transition;
    };
    if old.status != fresh.status {
        *old = fresh;
        return Change::Transition;
    }
    let kept = Condition { last_transition_time: old.last_transition_time.clone(), ..fresh };
    if *old == kept {
        return Change::None;
    }
    *old = kept;
    Change::Detail
}

/// The condition of a type, if it was ever set.
#[must_use]
pub fn find(conditions: &[Condition], type_: ConditionType) -> Option<&Condition> {
    conditions.iter().find(|c| c.type_ == type_.as_str())
}

/// Whether a condition is known to hold.
#[must_use]
pub fn is_true(conditions: &[Condition], type_: ConditionType) -> bool {
    find(conditions, type_).is_some_and(|c| c.status == ConditionStatus::True.as_str())
}

/// Whether two statuses say the same, whatever their times. Times are the fields whose name ends in `Time`; a status
/// that differs in nothing else is not worth a write, which would only wake its own writer again.
#[must_use]
pub fn same_ignoring_times<T: Serialize>(a: &T, b: &T) -> bool {
    match (serde_json::to_value(a), serde_json::to_value(b)) {
        (Ok(a), Ok(b)) => without_times(a) == without_times(b),
        // What cannot be written at all is never the same: the writer must run into its error.
        _ => false,
    }
}

fn without_times(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.into_iter().filter(|(k, _)| !k.ends_with("Time")).map(|(k, v)| (k, without_times(v))).collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(without_times).collect()),
        other => other,
    }
}

fn cut(mut message: String) -> String {
    if message.len() > MAX_MESSAGE_BYTES {
        let mut end = MAX_MESSAGE_BYTES - '…'.len_utf8();
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        message.push('…');
    }
    message
}

/// A set of words that is complete: as an enum in Rust, as a string in a resource, an event or a metric label.
macro_rules! closed_set {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// All of them, in the order of their declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word as it stands in resources.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant),)* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::conditions::UnknownWord;
            fn from_str(word: &str) -> Result<Self, Self::Err> {
                Self::ALL.iter().copied().find(|v| v.as_str() == word)
                    .ok_or_else(|| $crate::conditions::UnknownWord(word.chars().take(64).collect()))
            }
        }
    };
}
use closed_set;

/// A word that is in none of the closed sets, probably from a newer or an older version.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("read {0:?}, a word that this version does not know; check that all parts run the same version")]
pub struct UnknownWord(pub String);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::from_unix;

    fn at(seconds: i64) -> Time {
        from_unix(seconds).expect("a representable time")
    }

    #[test]
    fn transition_time_moves_only_with_the_status() {
        let mut list = Vec::new();
        let ready = ConditionType::Ready;
        let waiting = || Verdict::no(Reason::AwaitingGrant, "asked cork");
        assert_eq!(set(&mut list, ready, waiting(), Some(1), &at(10)), Change::Transition);
        assert_eq!(set(&mut list, ready, waiting(), Some(1), &at(20)), Change::None);
        assert_eq!(
            set(&mut list, ready, Verdict::no(Reason::NoCapacity, "needs 4, cork has 2"), Some(1), &at(30)),
            Change::Detail
        );
        assert_eq!(list[0].last_transition_time, at(10));
        assert_eq!(
            set(&mut list, ready, Verdict::yes(Reason::Routable, "1 of 1"), Some(1), &at(40)),
            Change::Transition
        );
        assert_eq!(list[0].last_transition_time, at(40));
        assert!(is_true(&list, ready));
    }

    #[test]
    fn a_new_generation_alone_is_written_without_a_transition() {
        let mut list = Vec::new();
        let verdict = || Verdict::yes(Reason::Valid, "");
        let _ = set(&mut list, ConditionType::Accepted, verdict(), Some(1), &at(10));
        assert_eq!(set(&mut list, ConditionType::Accepted, verdict(), Some(2), &at(20)), Change::Detail);
        assert_eq!((list[0].observed_generation, &list[0].last_transition_time), (Some(2), &at(10)));
    }

    #[test]
    fn the_list_is_sorted_whatever_the_order_of_writing() {
        let verdict = || Verdict::unknown(Reason::Starting, "");
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for t in [ConditionType::Ready, ConditionType::Accepted, ConditionType::Placed] {
            let _ = set(&mut a, t, verdict(), None, &at(1));
        }
        for t in [ConditionType::Placed, ConditionType::Ready, ConditionType::Accepted] {
            let _ = set(&mut b, t, verdict(), None, &at(1));
        }
        assert_eq!(a, b);
    }

    #[test]
    fn statuses_that_differ_in_times_alone_are_the_same() {
        let status = |seconds: i64, members: i64| {
            let mut list = Vec::new();
            let _ = set(&mut list, ConditionType::Ready, Verdict::yes(Reason::Ready, ""), None, &at(seconds));
            serde_json::json!({"members": members, "lastSeenTime": seconds, "conditions": list})
        };
        assert!(same_ignoring_times(&status(1, 3), &status(2, 3)));
        assert!(!same_ignoring_times(&status(1, 3), &status(1, 2)));
    }

    #[test]
    fn a_message_from_a_stranger_is_cut_at_a_character() {
        let cut = cut("ß".repeat(MAX_MESSAGE_BYTES));
        assert!(cut.len() <= MAX_MESSAGE_BYTES && cut.ends_with("ß…"));
    }

    #[test]
    fn every_word_reads_back_as_itself_and_fits_kubernetes() {
        for reason in Reason::ALL {
            assert_eq!(reason.as_str().parse(), Ok(*reason));
            assert!(reason.as_str().len() <= 63);
        }
        for type_ in ConditionType::ALL {
            assert_eq!(type_.as_str().parse(), Ok(*type_));
        }
        assert!("SomethingNewer".parse::<Reason>().is_err());
    }
}
