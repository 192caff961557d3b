//! Text that thousands of objects have in common, kept once.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

/// Text that is shared with whoever has the same.
pub type Word = Arc<str>;

/// A label: key and value.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label {
    key: Word,
    value: Box<str>,
}

/// The labels of an object, by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(Box<[Arc<Label>]>);

/// Everything that is shared now. What nobody uses any more is thrown out when the set has doubled since that was last done, so
/// that labels which change all the time cannot make it grow without end.
#[derive(Debug)]
struct Shared<T: ?Sized> {
    all: HashSet<Arc<T>>,
    swept: usize,
}

impl<T: ?Sized + Eq + std::hash::Hash> Shared<T> {
    /// The set is small until it was swept once.
    const LEAST: usize = 1024;

    fn new() -> Self {
        Self { all: HashSet::new(), swept: Self::LEAST }
    }

    fn share<Q>(&mut self, wanted: &Q, make: impl FnOnce() -> Arc<T>) -> Arc<T>
    where
        Q: ?Sized + Eq + std::hash::Hash,
        Arc<T>: std::borrow::Borrow<Q>,
    {
        if let Some(known) = self.all.get(wanted) {
            return known.clone();
        }
        if self.all.len() >= self.swept.saturating_mul(2) {
            self.all.retain(|one| Arc::strong_count(one) > 1);
            self.swept = self.all.len().max(Self::LEAST);
        }
        let made = make();
        self.all.insert(made.clone());
        made
    }
}

static WORDS: LazyLock<Mutex<Shared<str>>> = LazyLock::new(|| Mutex::new(Shared::new()));
static LABELS: LazyLock<Mutex<Shared<Label>>> = LazyLock::new(|| Mutex::new(Shared::new()));

/// The text, shared.
#[must_use]
pub fn word(text: &str) -> Word {
    WORDS.lock().unwrap_or_else(PoisonError::into_inner).share(text, || text.into())
}

impl Labels {
    /// The value of a label.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|label| (*label.key).cmp(key)).ok()?;
        self.0.get(at).map(|label| &*label.value)
    }

    /// Whether all of these are among them.
    pub fn have<'a>(&self, wanted: impl IntoIterator<Item = (&'a String, &'a String)>) -> bool {
        wanted.into_iter().all(|(key, value)| self.get(key) == Some(value))
    }
}

impl<'a> FromIterator<(&'a String, &'a String)> for Labels {
    fn from_iter<I: IntoIterator<Item = (&'a String, &'a String)>>(labels: I) -> Self {
        let shared = |(key, value): (&String, &String)| {
            let label = Label { key: word(key), value: value.as_str().into() };
            let mut all = LABELS.lock().unwrap_or_else(PoisonError::into_inner);
            match all.all.get(&label) {
                Some(known) => known.clone(),
                None => {
                    let made = Arc::new(label);
                    all.share(&made.clone(), || made)
                }
            }
        };
        let mut labels: Vec<Arc<Label>> = labels.into_iter().map(shared).collect();
        labels.sort();
        Self(labels.into())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> (BTreeMap<String, String>, Labels) {
        let map: BTreeMap<String, String> =
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let labels = map.iter().collect();
        (map, labels)
    }

    #[test]
    fn labels_say_what_they_were_made_of_and_nothing_else() {
        let (map, labels) = labels(&[("zone", "a"), ("kubernetes.io/hostname", "n1"), ("empty", "")]);
        assert!(map.iter().all(|(key, value)| labels.get(key) == Some(value)));
        assert_eq!((labels.get("zon"), labels.get("zone2"), Labels::default().get("zone")), (None, None, None));
        assert!(labels.have(&map) && labels.have(&BTreeMap::new()));
        assert!(!labels.have(&BTreeMap::from([("zone".to_owned(), "b".to_owned())])));
    }

    #[test]
    fn what_two_say_alike_is_kept_once_and_forgotten_after_them() {
        let mut shared = Shared::<str>::new();
        let (one, two) = (shared.share("a", || "a".into()), shared.share("a", || "a".into()));
        assert!(Arc::ptr_eq(&one, &two));
        for number in 0..10_000 {
            let text = number.to_string();
            shared.share(text.as_str(), || text.as_str().into());
        }
        assert!(shared.all.len() <= 2 * Shared::<str>::LEAST, "{} words of which one is used", shared.all.len());
        assert!(Arc::ptr_eq(&one, &shared.share("a", || "a".into())), "what is used is never thrown out");
    }
}
