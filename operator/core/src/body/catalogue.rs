//! What the cooperative approves by vote: model releases and engines.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{Bytes, EngineName, License, ManifestDigest, ModelUri, Quantization, Revision, name_type};

fn plain(text: &str, max: usize, allowed: &[u8]) -> bool {
    !text.is_empty() && text.len() <= max && text.bytes().all(|b| b.is_ascii_alphanumeric() || allowed.contains(&b))
}

name_type!(
/// A container image by digest: `repository@sha256:…`. A tag could be pushed again.
ImageRef, "an image", |t| {
    let good = t.split_once('@').is_some_and(|(repository, digest)| {
        plain(repository, 400, b"./-_:") && digest.parse::<crate::ids::Digest>().is_ok()
    });
    (!good).then_some("must be repository@sha256: and 64 lower case hex digits; a tag is not enough")
});
name_type!(
    /// The name of an engine option.
    OptionName, "an option name", |t| (!plain(t, 63, b"-_")).then_some("must be letters, digits, '-' and '_', at most 63"));
name_type!(
    /// A value of an enumerated option.
    Word, "an option value", |t| (!plain(t, 63, b"-_.")).then_some("must be letters, digits, '-', '_' and '.', at most 63"));
name_type!(
    /// The command line flag of an option.
    Flag, "a flag", |t| (!(t.starts_with('-') && plain(t, 63, b"-_"))).then_some("must begin with '-', then letters, digits, '-' and '_'"));
name_type!(
    /// One argument of the engine, with `{placeholders}`.
    Argument, "an argument", |t| (t.is_empty() || t.len() > 512 || t.chars().any(char::is_control))
        .then_some("must have 1 to 512 characters without control characters"));
name_type!(
    /// An absolute path.
    AbsolutePath, "a path", |t| (!(t.starts_with('/') && t.len() > 1 && plain(t, 255, b"/._-") && !t.split('/').any(|p| p == "..")))
        .then_some("must be absolute, without '..', of letters, digits, '.', '_', '-'"));
name_type!(
/// A Kubernetes quantity such as `4`, `500m` or `8Gi`.
Quantity, "a quantity", |t| {
    let digits = t.bytes().take_while(u8::is_ascii_digit).count();
    let good = (1..=15).contains(&digits) && ["", "m", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti"].contains(&&t[digits..]);
    (!good).then_some("must be a whole number with an optional suffix m, k, M, G, T, Ki, Mi, Gi or Ti")
});

/// A model that members may place on each other's GPUs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ModelRelease {
    /// Where its weights come from.
    pub uri: ModelUri,
    /// Which revision there.
    pub revision: Revision,
    /// Its identity.
    pub manifest_digest: ManifestDigest,
    /// How its weights are quantised.
    pub quantization: Quantization,
    /// Under which licence.
    pub license: License,
    /// With which engines it may be served; empty means any of the catalogue.
    #[serde(default)]
    pub engines: Vec<EngineName>,
    /// GPU memory that it needs, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<Bytes>,
}

/// An entry of the engine catalogue: everything from which a host renders the pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Engine {
    /// Its name.
    pub name: EngineName,
    /// Its image by digest.
    pub image: ImageRef,
    /// Its arguments with placeholders.
    pub args: Vec<Argument>,
    /// What a job may choose.
    #[serde(default)]
    pub options: BTreeMap<OptionName, OptionSpec>,
    /// The port of its API.
    pub port: u16,
    /// The path that answers 200 when it is ready.
    pub health_path: AbsolutePath,
    /// Paths that it must be able to write.
    #[serde(default)]
    pub writable_paths: Vec<AbsolutePath>,
    /// What it needs beside GPUs.
    pub resources: EngineResources,
}

/// What an engine needs beside GPUs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EngineResources {
    /// Processors.
    pub cpu: Quantity,
    /// Memory.
    pub memory: Quantity,
    /// Shared memory.
    pub shm: Quantity,
}

/// The type of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OptionType {
    /// A whole number between `min` and `max`.
    Integer,
    /// A switch.
    Boolean,
    /// One of `values`.
    Enum,
}

/// What a job may set, and how it reaches the engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OptionSpec {
    /// The type.
    #[serde(rename = "type")]
    pub kind: OptionType,
    /// The smallest integer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<i64>,
    /// The largest integer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<i64>,
    /// The values of an enumeration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<Word>,
    /// The flag; an integer or word follows as an argument of its own, a boolean is the flag alone or nothing.
    pub flag: Flag,
}

/// A value that a job gives an option.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OptionValue {
    /// A switch.
    Boolean(bool),
    /// A whole number.
    Integer(i64),
    /// A word.
    Word(Word),
}

impl fmt::Display for OptionValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boolean(value) => value.fmt(f),
            Self::Integer(value) => value.fmt(f),
            Self::Word(value) => value.fmt(f),
        }
    }
}

/// Why an engine or its options cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogueError {
    /// An argument names a placeholder that nobody fills.
    #[error("engine {engine} has the unknown placeholder {{{placeholder}}}: known are {}", PLACEHOLDERS.join(", "))]
    Placeholder {
        /// Which engine.
        engine: EngineName,
        /// What it names.
        placeholder: String,
    },
    /// More of something than a pod can carry.
    #[error("engine {engine} has too many {what}")]
    TooMany {
        /// Which engine.
        engine: EngineName,
        /// Of what.
        what: &'static str,
    },
    /// The port is not usable without privileges.
    #[error("engine {0} asks for port below 1024, which a restricted pod cannot open")]
    Port(EngineName),
    /// The specification of an option contradicts itself.
    #[error("option {option} of engine {engine} {rule}")]
    Option {
        /// Which engine.
        engine: EngineName,
        /// Which option.
        option: OptionName,
        /// What it breaks.
        rule: &'static str,
    },
    /// A job sets an option that the catalogue does not have.
    #[error("engine {engine} has no option {option}: it has {}", or_none(known))]
    UnknownOption {
        /// Which engine.
        engine: EngineName,
        /// What the job set.
        option: OptionName,
        /// What there is.
        known: Vec<String>,
    },
    /// A job gives an option a value that it cannot take.
    #[error("option {option} of engine {engine} cannot be {value}: {allowed}")]
    Value {
        /// Which engine.
        engine: EngineName,
        /// Which option.
        option: OptionName,
        /// What the job gave.
        value: OptionValue,
        /// What is allowed.
        allowed: String,
    },
}

fn or_none(known: &[String]) -> String {
    if known.is_empty() { "none".to_owned() } else { known.join(", ") }
}

/// The placeholders of engine arguments.
pub const PLACEHOLDERS: [&str; 6] = ["modelPath", "servedName", "port", "maxModelLen", "maxConcurrency", "gpuCount"];

/// What fills the placeholders of an engine's arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArgumentValues<'a> {
    /// Where the weights lie in the pod.
    pub model_path: &'a str,
    /// The served name.
    pub served_name: &'a str,
    /// Longest context.
    pub max_model_len: u32,
    /// Requests at once.
    pub max_concurrency: u32,
    /// GPUs of the pod.
    pub gpu_count: u32,
}

impl Engine {
    /// Checks what the types alone cannot say.
    pub fn validate(&self) -> Result<(), CatalogueError> {
        let engine = || self.name.clone();
        for (what, count, most) in [
            ("arguments", self.args.len(), 64),
            ("options", self.options.len(), 64),
            ("writable paths", self.writable_paths.len(), 16),
        ] {
            if count > most {
                return Err(CatalogueError::TooMany { engine: engine(), what });
            }
        }
        if self.port < 1024 {
            return Err(CatalogueError::Port(engine()));
        }
        for argument in &self.args {
            if let Some(placeholder) = unknown_placeholder(argument.as_str()) {
                return Err(CatalogueError::Placeholder { engine: engine(), placeholder });
            }
        }
        for (name, spec) in &self.options {
            if let Some(rule) = spec.contradiction() {
                return Err(CatalogueError::Option { engine: engine(), option: name.clone(), rule });
            }
        }
        Ok(())
    }

    /// Checks the options that a job chose.
    pub fn check_options(&self, chosen: &BTreeMap<OptionName, OptionValue>) -> Result<(), CatalogueError> {
        for (option, value) in chosen {
            let spec = self.options.get(option).ok_or_else(|| CatalogueError::UnknownOption {
                engine: self.name.clone(),
                option: option.clone(),
                known: self.options.keys().map(ToString::to_string).collect(),
            })?;
            if !spec.allows(value) {
                return Err(CatalogueError::Value {
                    engine: self.name.clone(),
                    option: option.clone(),
                    value: value.clone(),
                    allowed: spec.allowed(),
                });
            }
        }
        Ok(())
    }

    /// The engine's arguments: its template filled in, then the chosen options in the order of their names.
    pub fn render_args(
        &self,
        values: &ArgumentValues<'_>,
        chosen: &BTreeMap<OptionName, OptionValue>,
    ) -> Result<Vec<String>, CatalogueError> {
        self.check_options(chosen)?;
        let mut args: Vec<String> = self.args.iter().map(|a| self.fill(a.as_str(), values)).collect();
        for (name, value) in chosen {
            let Some(spec) = self.options.get(name) else { continue };
            match value {
                OptionValue::Boolean(false) => {}
                OptionValue::Boolean(true) => args.push(spec.flag.to_string()),
                other => args.extend([spec.flag.to_string(), other.to_string()]),
            }
        }
        Ok(args)
    }

    fn fill(&self, template: &str, values: &ArgumentValues<'_>) -> String {
        // One pass, so that a value that looks like a placeholder is not filled again.
        let mut out = String::new();
        let mut rest = template;
        while let Some((before, after)) = rest.split_once('{') {
            out.push_str(before);
            let Some((name, tail)) = after.split_once('}') else {
                out.push('{');
                rest = after;
                continue;
            };
            match name {
                "modelPath" => out.push_str(values.model_path),
                "servedName" => out.push_str(values.served_name),
                "port" => out.push_str(&self.port.to_string()),
                "maxModelLen" => out.push_str(&values.max_model_len.to_string()),
                "maxConcurrency" => out.push_str(&values.max_concurrency.to_string()),
                "gpuCount" => out.push_str(&values.gpu_count.to_string()),
                other => out.push_str(&format!("{{{other}}}")),
            }
            rest = tail;
        }
        out + rest
    }
}

fn unknown_placeholder(template: &str) -> Option<String> {
    template
        .split('{')
        .skip(1)
        .map(|part| part.split('}').next().unwrap_or_default())
        .find(|name| !PLACEHOLDERS.contains(name))
        .map(ToOwned::to_owned)
}

impl OptionSpec {
    fn contradiction(&self) -> Option<&'static str> {
        let unique: BTreeSet<_> = self.values.iter().collect();
        match self.kind {
            OptionType::Integer if !self.values.is_empty() => Some("is an integer and must not list values"),
            OptionType::Integer => match (self.min, self.max) {
                (Some(min), Some(max)) if min <= max => None,
                _ => Some("is an integer and needs min and max, min not above max"),
            },
            _ if self.min.is_some() || self.max.is_some() => Some("is no integer and must not have min or max"),
            OptionType::Boolean if !self.values.is_empty() => Some("is a boolean and must not list values"),
            OptionType::Boolean => None,
            OptionType::Enum if self.values.is_empty() || self.values.len() > 64 => Some("needs 1 to 64 values"),
            OptionType::Enum if unique.len() != self.values.len() => Some("lists a value twice"),
            OptionType::Enum => None,
        }
    }

    fn allows(&self, value: &OptionValue) -> bool {
        match (self.kind, value) {
            (OptionType::Boolean, OptionValue::Boolean(_)) => true,
            (OptionType::Integer, OptionValue::Integer(n)) => {
                self.min.is_none_or(|min| *n >= min) && self.max.is_none_or(|max| *n <= max)
            }
            (OptionType::Enum, OptionValue::Word(word)) => self.values.contains(word),
            _ => false,
        }
    }

    fn allowed(&self) -> String {
        match self.kind {
            OptionType::Boolean => "it is true or false".to_owned(),
            OptionType::Integer => format!(
                "it is a whole number from {} to {}",
                self.min.map_or_else(|| "any".to_owned(), |n| n.to_string()),
                self.max.map_or_else(|| "any".to_owned(), |n| n.to_string())
            ),
            OptionType::Enum => {
                format!("it is one of {}", self.values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
            }
        }
    }
}
