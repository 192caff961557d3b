//! `--set PATH=VALUE`: single numbers of the charter, read as what stands there now.

use koinon_core::body::charter::validate_numbers;
use koinon_core::body::proposal::ChangeCharter;
use serde_json::{Map, Value, json};

/// One number and its new value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    path: String,
    value: String,
}

impl std::str::FromStr for Setting {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((path, value)) if !path.is_empty() && !value.is_empty() => {
                Ok(Self { path: path.to_owned(), value: value.to_owned() })
            }
            _ => Err("write PATH=VALUE, such as parameters.graceSeconds=30".to_owned()),
        }
    }
}

/// Why the charter's numbers cannot be set so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No such number.
    #[error("the charter has no {path}: there is {known} in {within}")]
    Unknown {
        /// What was asked for.
        path: String,
        /// Where it was looked for.
        within: String,
        /// What there is.
        known: String,
    },
    /// A value of another type.
    #[error("{path} must be {expected}, not {seen:?}")]
    Type {
        /// Which one.
        path: String,
        /// What it is.
        expected: &'static str,
        /// What was given.
        seen: String,
    },
    /// Out of its bounds.
    #[error("the charter would not hold: {0}")]
    Bounds(String),
}

/// `charter` with `settings` made, if that is still a charter.
///
/// # Errors
/// Which number is not one of the charter, of another type or out of its bounds.
pub fn apply(charter: &ChangeCharter, settings: &[Setting]) -> Result<ChangeCharter, Error> {
    let not_a_charter = |error: serde_json::Error| Error::Bounds(error.to_string());
    let mut all = serde_json::to_value(charter).map_err(not_a_charter)?;
    for setting in settings {
        set(&mut all, setting)?;
    }
    let changed: ChangeCharter = serde_json::from_value(all).map_err(not_a_charter)?;
    validate_numbers(&changed.parameters, &changed.classes).map_err(|error| Error::Bounds(error.to_string()))?;
    Ok(changed)
}

fn set(all: &mut Value, Setting { path, value }: &Setting) -> Result<(), Error> {
    let (mut at, mut within) = (all, "the charter".to_owned());
    let mut steps = path.split('.').peekable();
    while let Some(step) = steps.next() {
        let last = steps.peek().is_none();
        let unknown = |fields: Option<&Map<String, Value>>| {
            let mut known: Vec<&str> = fields.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
            known.sort_unstable();
            Error::Unknown { path: path.clone(), within: within.clone(), known: known.join(", ") }
        };
        let Some(fields) = at.as_object_mut() else { return Err(unknown(None)) };
        // A class without a veto has none written down.
        if !fields.contains_key(step) && !(last && step == "veto" && fields.contains_key("minYes")) {
            return Err(unknown(Some(fields)));
        }
        if last {
            let before = fields.get(step).cloned();
            match typed(path, step, before.as_ref(), value)? {
                Some(value) => fields.insert(step.to_owned(), value),
                None => fields.remove(step),
            };
            return Ok(());
        }
        step.clone_into(&mut within);
        let Some(next) = fields.get_mut(step) else { return Ok(()) };
        at = next;
    }
    Ok(())
}

/// `value` as what `before` is; none to take it away.
fn typed(path: &str, name: &str, before: Option<&Value>, value: &str) -> Result<Option<Value>, Error> {
    let wrong = |expected| Error::Type { path: path.to_owned(), expected, seen: value.to_owned() };
    let either = |words: [&str; 2], expected| {
        let (word, share) = value.split_once(' ').ok_or_else(|| wrong(expected))?;
        let share = fraction(share).filter(|_| words.contains(&word)).ok_or_else(|| wrong(expected))?;
        Ok(Some(json!({ word: share })))
    };
    match (name, before) {
        ("veto", _) if value == "none" => Ok(None),
        ("veto", _) => fraction(value).map(Some).ok_or_else(|| wrong("a fraction such as 1/3, or none")),
        ("threshold", _) => either(["moreThan", "atLeast"], "\"moreThan 1/2\" or \"atLeast 2/3\""),
        ("minYes", _) => either(["ceil", "floorPlusOne"], "\"ceil 1/4\" or \"floorPlusOne 1/2\""),
        (_, Some(Value::Bool(_))) => value.parse::<bool>().map(|b| Some(json!(b))).map_err(|_| wrong("true or false")),
        (_, Some(Value::Number(_))) => {
            value.parse::<i64>().map(|n| Some(json!(n))).map_err(|_| wrong("a whole number"))
        }
        (_, Some(Value::Object(fields))) if fields.contains_key("den") => {
            fraction(value).map(Some).ok_or_else(|| wrong("a fraction such as 1/3"))
        }
        _ => Err(wrong("named to its end: it has parts")),
    }
}

fn fraction(text: &str) -> Option<Value> {
    let (num, den) = text.split_once('/')?;
    Some(json!({"num": num.parse::<u32>().ok()?, "den": den.parse::<u32>().ok()?}))
}

#[cfg(test)]
mod tests {
    use koinon_core::body::Class;
    use koinon_core::body::charter::{Fraction, MinYes, Preset, Threshold};
    use koinon_core::ids::Seconds;
    use koinon_core::presets;

    use super::*;

    fn standard() -> ChangeCharter {
        ChangeCharter { parameters: presets::parameters(Preset::Standard), classes: presets::classes(Preset::Standard) }
    }

    fn with(settings: &[&str]) -> Result<ChangeCharter, Error> {
        let settings: Vec<Setting> = settings.iter().map(|setting| setting.parse().unwrap()).collect();
        apply(&standard(), &settings)
    }

    #[test]
    fn numbers_of_every_type_are_set_and_nothing_else_changes() {
        let changed = with(&[
            "parameters.graceSeconds=30",
            "parameters.closeWhenAllVoted=true",
            "parameters.budgets.entriesPerDay=100",
            "classes.Routine.periodSeconds=60",
            "classes.Routine.turnout=1/2",
            "classes.Routine.threshold=atLeast 3/4",
            "classes.Routine.minYes=floorPlusOne 1/3",
            "classes.Routine.veto=none",
            "classes.Expel.veto=1/2",
        ])
        .unwrap();
        let mut expected = standard();
        expected.parameters.grace_seconds = Seconds(30);
        expected.parameters.close_when_all_voted = true;
        expected.parameters.budgets.entries_per_day = 100;
        let routine = expected.classes.get_mut(&Class::Routine).unwrap();
        routine.period_seconds = Seconds(60);
        routine.turnout = Fraction { num: 1, den: 2 };
        routine.threshold = Threshold::AtLeast(Fraction { num: 3, den: 4 });
        routine.min_yes = MinYes::FloorPlusOne(Fraction { num: 1, den: 3 });
        routine.veto = None;
        expected.classes.get_mut(&Class::Expel).unwrap().veto = Some(Fraction { num: 1, den: 2 });
        assert_eq!(changed, expected);
    }

    #[test]
    fn what_cannot_be_set_is_refused_with_what_can_or_with_the_bound() {
        let said = |setting: &str| with(&[setting]).unwrap_err().to_string();
        assert!(said("parameters.grace=30").contains("graceSeconds"), "{}", said("parameters.grace=30"));
        assert!(said("classes.Lunch.periodSeconds=1").contains("Admit, Cancel, Charter"));
        assert!(said("classes.Routine.periodSeconds.x=1").starts_with("the charter has no"));
        assert_eq!(
            said("parameters.graceSeconds=soon"),
            "parameters.graceSeconds must be a whole number, not \"soon\""
        );
        assert!(said("classes.Routine.threshold=1/2").contains("moreThan 1/2"));
        assert!(said("parameters.budgets=3").contains("it has parts"));
        assert!(
            said("parameters.graceSeconds=604801").contains("parameter graceSeconds is 604801: between 0 and 604800"),
            "{}",
            said("parameters.graceSeconds=604801")
        );
        assert!(
            said("classes.Routine.turnout=3/2").contains("turnout of class Routine must be a fraction between 0 and 1")
        );
        assert!(said("parameters.freshSeconds=300").contains("lostSeconds must be greater than freshSeconds"));
        assert!("parameters.graceSeconds".parse::<Setting>().is_err());
    }
}
