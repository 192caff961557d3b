//! Which metrics and labels an expression of Prometheus names. Whether it is one at all, `promtool` says.

use std::collections::{BTreeMap, BTreeSet};

/// What an expression names.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// The labels that each metric is selected by.
    pub metrics: BTreeMap<String, BTreeSet<String>>,
    /// Labels that results are grouped or matched by.
    pub grouped: BTreeSet<String>,
}

/// Words that take a list of labels in brackets.
const LISTS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
/// Words that stand between a function over several series and its brackets.
const GROUPING: [&str; 2] = ["by", "without"];
/// Words that are neither metrics nor functions.
const WORDS: [&str; 8] = ["and", "or", "unless", "bool", "offset", "atan2", "inf", "nan"];

/// Reads an expression.
pub fn named(expr: &str) -> Named {
    let tokens = tokens(expr);
    let mut named = Named::default();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let next = tokens.get(at + 1).map(String::as_str);
        at += 1;
        if LISTS.contains(&token.as_str()) && next == Some("(") {
            at = take(&tokens, at + 1, ")", |label| {
                named.grouped.insert(label.to_owned());
            });
        } else if token == "[" {
            at = take(&tokens, at, "]", |_| ());
        } else if is_metric(token, next) {
            let labels = named.metrics.entry(token.clone()).or_default();
            if next == Some("{") {
                // Names come before an operator; the values behind it are in quotes, which are no tokens.
                at = take(&tokens, at + 1, "}", |label| {
                    labels.insert(label.to_owned());
                });
            }
        }
    }
    named
}

fn is_metric(token: &str, next: Option<&str>) -> bool {
    let is_function = next.is_some_and(|next| next == "(" || GROUPING.contains(&next));
    is_name(token) && !is_function && !WORDS.contains(&token) && !LISTS.contains(&token)
}

/// Hands out the names up to `end`, and says where to go on.
fn take(tokens: &[String], from: usize, end: &str, mut each: impl FnMut(&str)) -> usize {
    let rest = tokens.get(from..).unwrap_or_default();
    let length = rest.iter().position(|token| token == end).unwrap_or(rest.len());
    rest.iter().take(length).filter(|token| is_name(token)).for_each(|token| each(token));
    from + length + 1
}

fn is_name(token: &str) -> bool {
    token.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
}

/// Names and single characters; numbers, durations and strings are left out.
fn tokens(expr: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = expr.chars().peekable();
    while let Some(first) = rest.next() {
        if matches!(first, '"' | '\'' | '`') {
            while let Some(inside) = rest.next() {
                match inside {
                    '\\' if first != '`' => drop(rest.next()),
                    _ if inside == first => break,
                    _ => {}
                }
            }
        } else if first.is_ascii_alphanumeric() || first == '_' {
            let mut word = String::from(first);
            while let Some(more) = rest.next_if(|next| next.is_ascii_alphanumeric() || matches!(next, '_' | ':' | '.'))
            {
                word.push(more);
            }
            if is_name(&word) {
                tokens.push(word);
            }
        } else if !first.is_whitespace() {
            tokens.push(first.to_string());
        }
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_labels_and_groups_are_told_from_functions_words_and_strings() {
        let found = named(
            "sum by (pool) (rate(koinon_a_total{kind=~\"b|c{d}\", e!=\"f\"}[5m])) > bool 3e2 \
             and on (uuid) group_left (g) max without (h) (koinon_i offset 1h) unless koinon_j == 0",
        );
        let labels = |labels: &[&str]| labels.iter().map(|&label| label.to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(found.grouped, labels(&["pool", "uuid", "g", "h"]));
        let wanted = [("koinon_a_total", labels(&["kind", "e"])), ("koinon_i", labels(&[])), ("koinon_j", labels(&[]))];
        assert_eq!(found.metrics, wanted.into_iter().map(|(name, labels)| (name.to_owned(), labels)).collect());
    }
}
