//! The challenger's side: what it says next, and what it makes of the answers. Whoever drives it measures the time from sending a
//! question to having its whole answer, and sends `Recall` as soon as it has the first one.

use super::message::{Ask, MessageError, Reply};
use super::secret::Secret;
use super::task::{MAX_DEVICES, Node, Occasion, Size, Task};
use super::timing::Timing;
use super::transcript::{Answer, Transcript, TranscriptError};

/// Why a challenge ended without a transcript.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskingError {
    /// The answer is none.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// It is the answer to another question.
    #[error("the engine answered another question than {asked}")]
    OtherStep {
        /// What was asked.
        asked: &'static str,
    },
    /// The answer is that of another number of devices.
    #[error("the engine answered for {seen} devices: {asked} were asked")]
    Devices {
        /// What was asked.
        asked: u8,
        /// What answered.
        seen: usize,
    },
    /// What it showed does not fit the matrix.
    #[error(transparent)]
    Transcript(#[from] TranscriptError),
}

/// A challenge that begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asking {
    /// Who asks whom.
    pub occasion: Occasion,
    /// How much.
    pub size: Size,
    /// How many devices.
    pub devices: u8,
    /// What chooses salt and rows.
    pub secret: Secret,
}

/// `Begin` is under way.
#[derive(Clone, Debug)]
pub struct Computing(Asking);

/// `Recall` is.
#[derive(Clone, Debug)]
pub struct Recalling {
    asking: Asking,
    compute: u32,
}

/// `Open` is.
#[derive(Clone, Debug)]
pub struct Opening {
    asking: Asking,
    timing: Timing,
    roots: Vec<Node>,
}

impl Asking {
    /// The first question.
    ///
    /// # Errors
    /// No device, or more than there can be.
    pub fn begin(self) -> Result<(Computing, Ask), MessageError> {
        if self.devices == 0 || self.devices > MAX_DEVICES {
            return Err(MessageError::Devices(self.devices));
        }
        let task = Task { seed: self.occasion.seed(), size: self.size };
        let ask = Ask::Begin { task, devices: self.devices, commitment: self.secret.salt().commitment() };
        Ok((Computing(self), ask))
    }

    fn count(&self, seen: usize) -> Result<(), AskingError> {
        if seen == usize::from(self.devices) {
            return Ok(());
        }
        Err(AskingError::Devices { asked: self.devices, seen })
    }
}

impl Computing {
    /// The second question, given the answer to the first and the milliseconds that it took.
    ///
    /// # Errors
    /// It is not the answer.
    pub fn computed(self, reply: &str, millis: u32) -> Result<(Recalling, Ask), AskingError> {
        let Reply::Computed { millis: each } = Reply::read(reply)? else {
            return Err(AskingError::OtherStep { asked: "begin" });
        };
        self.0.count(each.len())?;
        let ask = Ask::Recall { salt: self.0.secret.salt() };
        Ok((Recalling { asking: self.0, compute: millis }, ask))
    }
}

impl Recalling {
    /// The last question, given the answer to the second and the milliseconds that it took.
    ///
    /// # Errors
    /// It is not the answer.
    pub fn recalled(self, reply: &str, millis: u32) -> Result<(Opening, Ask), AskingError> {
        let Reply::Recalled { roots, .. } = Reply::read(reply)? else {
            return Err(AskingError::OtherStep { asked: "recall" });
        };
        self.asking.count(roots.len())?;
        let ask = Ask::Open { secret: self.asking.secret };
        let timing = Timing { compute_millis: self.compute, recall_millis: millis };
        Ok((Opening { asking: self.asking, timing, roots }, ask))
    }
}

impl Opening {
    /// What to show the others, given the answer to the last question. It still has to be checked, by the challenger first.
    ///
    /// # Errors
    /// It is not the answer, or does not fit the matrix.
    pub fn opened(self, reply: &str) -> Result<Transcript, AskingError> {
        let Reply::Opened { paths } = Reply::read(reply)? else {
            return Err(AskingError::OtherStep { asked: "open" });
        };
        let Asking { occasion, size, secret, .. } = &self.asking;
        self.asking.count(paths.len())?;
        let devices = self.roots.into_iter().zip(paths).map(|(root, paths)| Answer { root, paths }).collect();
        let transcript =
            Transcript { occasion: occasion.clone(), size: *size, secret: *secret, timing: self.timing, devices };
        transcript.validate()?;
        Ok(transcript)
    }
}
