//! What challenger and engine say to each other: JSON texts that travel as prompt and text of an ordinary completion.

use serde::{Deserialize, Serialize};

use super::secret::{Commitment, Salt, Secret};
use super::task::{MAX_DEVICES, Node, Task};
use super::tree::Path;
use crate::json::{self, JsonError};

/// Longest question.
pub const MAX_ASK: usize = 1024;
/// Longest answer.
pub const MAX_REPLY: usize = 40 * 1024;

/// Why a text is no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Not the JSON of one.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// No device, or more than there can be.
    #[error("a challenge of {0} devices: between 1 and {MAX_DEVICES} are possible")]
    Devices(u8),
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "camelCase", deny_unknown_fields)]
pub enum Ask {
    /// Compute, on all devices at once.
    Begin {
        /// What.
        task: Task,
        /// How many devices there have to be, no more and no fewer.
        devices: u8,
        /// Fixes what is asked later.
        commitment: Commitment,
    },
    /// Hash all rows of every device.
    Recall {
        /// With this.
        salt: Salt,
    },
    /// Show the rows that this chooses.
    Open {
        /// Chooses.
        secret: Secret,
    },
}

/// An answer. Its times are what the engine says, for people; the challenger measures for itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "camelCase", deny_unknown_fields)]
pub enum Reply {
    /// Every device holds its matrix.
    Computed {
        /// Milliseconds that each device took.
        millis: Vec<u32>,
    },
    /// Every device has hashed it.
    Recalled {
        /// The root of each device.
        roots: Vec<Node>,
        /// Milliseconds that each device took.
        millis: Vec<u32>,
    },
    /// The rows.
    Opened {
        /// For each device, the path of each row that is looked at, in the order in which they were chosen.
        paths: Vec<Vec<Path>>,
    },
}

impl Ask {
    /// Reads a question.
    ///
    /// # Errors
    /// It is none.
    pub fn read(text: &str) -> Result<Self, MessageError> {
        let ask = json::from_slice(text.as_bytes(), MAX_ASK, "a question of a challenge")?;
        match ask {
            Self::Begin { devices, .. } if devices == 0 || devices > MAX_DEVICES => Err(MessageError::Devices(devices)),
            _ => Ok(ask),
        }
    }

    /// The text to send.
    #[must_use]
    pub fn text(&self) -> String {
        written(self)
    }
}

impl Reply {
    /// Reads an answer.
    ///
    /// # Errors
    /// It is none.
    pub fn read(text: &str) -> Result<Self, MessageError> {
        Ok(json::from_slice(text.as_bytes(), MAX_REPLY, "an answer to a challenge")?)
    }

    /// The text to send.
    #[must_use]
    pub fn text(&self) -> String {
        written(self)
    }
}

fn written(message: &impl Serialize) -> String {
    // Only maps with other keys than text and failing writers make this fail; there are neither.
    serde_json::to_string(message).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::challenge::{Seed, Size};

    fn begin(devices: u8) -> Ask {
        let task = Task { seed: Seed([1; 32]), size: Size::new(128, 64).unwrap() };
        Ask::Begin { task, devices, commitment: Commitment([2; 32]) }
    }

    #[test]
    fn messages_are_read_as_they_were_written() {
        for ask in [begin(16), Ask::Recall { salt: Salt([3; 32]) }, Ask::Open { secret: Secret([4; 32]) }] {
            assert_eq!(Ask::read(&ask.text()).unwrap(), ask);
        }
        let paths = vec![vec!["".parse().unwrap()]];
        let recalled = Reply::Recalled { roots: vec![Node([1; 16])], millis: vec![7] };
        for reply in [Reply::Computed { millis: vec![5] }, recalled, Reply::Opened { paths }] {
            assert_eq!(Reply::read(&reply.text()).unwrap(), reply);
        }
        assert!(begin(1).text().starts_with(r#"{"step":"begin","task":{"seed":"0101"#), "{}", begin(1).text());
    }

    #[test]
    fn what_asks_for_too_much_is_no_question() {
        assert_eq!(Ask::read(&begin(0).text()), Err(MessageError::Devices(0)));
        assert_eq!(Ask::read(&begin(17).text()), Err(MessageError::Devices(17)));
        let text = begin(1).text();
        for (right, wrong) in [
            ("\"rows\":128", "\"rows\":1000000000"),
            ("\"rows\":128", "\"rows\":129"),
            ("\"rows\":128", "\"rows\":-128"),
            ("\"rows\":128", "\"rows\":1.28e2"),
            ("\"rows\":128", "\"rows\":null"),
            ("\"depth\":64", "\"depth\":131072"),
            ("\"devices\":1", "\"devices\":1,\"devices\":2"),
            ("\"devices\":1", "\"devices\":1,\"image\":\"x\""),
        ] {
            assert!(text.contains(right));
            assert!(Ask::read(&text.replace(right, wrong)).is_err(), "{wrong}");
        }
        assert!(Ask::read(&format!("{text}{}", " ".repeat(MAX_ASK))).is_err());
        assert!(Reply::read(&format!(r#"{{"step":"computed","millis":[{}1]}}"#, "1,".repeat(MAX_REPLY))).is_err());
    }
}
