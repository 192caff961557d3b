//! What a driver answered, kept as `symbol return-code struct-size` a line, and how another differs from it.

use std::collections::BTreeMap;
use std::fmt;

/// The calls of one survey: how often each symbol was answered how. The order says nothing, since the survey's own order
/// changes with its code.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Calls(BTreeMap<String, BTreeMap<Answer, usize>>);

/// A return code, or `absent` where the library lacks the symbol, and the size in bytes of what was to be filled.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Answer {
    returned: String,
    size: usize,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.returned, self.size)
    }
}

impl Calls {
    /// Reads a trace.
    ///
    /// # Errors
    /// Names the first line that is none.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut calls = Self::default();
        for line in text.lines() {
            let mut words = line.split(' ');
            let (Some(symbol), Some(returned), Some(size), None) =
                (words.next(), words.next(), words.next().and_then(|size| size.parse().ok()), words.next())
            else {
                return Err(format!("{line:?} is not `symbol return-code struct-size`"));
            };
            let answer = Answer { returned: returned.to_owned(), size };
            *calls.0.entry(symbol.to_owned()).or_default().entry(answer).or_default() += 1;
        }
        Ok(calls)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.values().flat_map(BTreeMap::values).sum()
    }

    /// One line a symbol that was answered otherwise, by what `self` and `other` are called. How often does not count: one
    /// driver has more devices than another.
    pub fn differences(&self, name: &str, other: &Self, other_name: &str) -> Vec<String> {
        let symbols: std::collections::BTreeSet<&String> = self.0.keys().chain(other.0.keys()).collect();
        let differing = symbols.into_iter().filter_map(|symbol| {
            let (ours, theirs) = (self.answers(symbol), other.answers(symbol));
            (ours != theirs).then(|| format!("{symbol}: {name} answers {ours}, {other_name} {theirs}"))
        });
        differing.collect()
    }

    fn answers(&self, symbol: &str) -> String {
        let answers = self.0.get(symbol).into_iter().flat_map(BTreeMap::keys);
        let answers: Vec<String> = answers.map(Answer::to_string).collect();
        if answers.is_empty() { "nothing, it is not asked".to_owned() } else { answers.join(" or ") }
    }
}
