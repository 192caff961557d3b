//! Server-sent events, as far as a router needs them: where one ends, and whether it carries the usage.

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// An event longer than this is passed on as it comes, unread. Each stream can make its gateway hold one, and there are a
/// thousand streams; the longest that engines send, a token with the odds of twenty others, has three thousand bytes.
const MAX_EVENT: usize = 64 << 10;
/// No model has a longer context; more is a lie, and would spoil the sums of all others.
const MAX_TOKENS: u64 = 16_777_216;

/// Tokens that an engine reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Usage {
    /// Tokens read.
    #[serde(default)]
    pub prompt_tokens: u64,
    /// Tokens written.
    #[serde(default)]
    pub completion_tokens: u64,
}

impl Usage {
    /// No more than a model could have read or written.
    pub fn plausible(self) -> Self {
        Self {
            prompt_tokens: self.prompt_tokens.min(MAX_TOKENS),
            completion_tokens: self.completion_tokens.min(MAX_TOKENS),
        }
    }
}

/// What an event is to a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A piece of the answer, perhaps with the usage so far.
    Piece(Option<Usage>),
    /// The extra chunk at the end, which has no choices.
    UsageOnly(Usage),
    /// `[DONE]`.
    Done,
    /// A comment, or something unknown.
    Other,
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Option<Vec<IgnoredAny>>,
    #[serde(default)]
    usage: Option<Usage>,
}

impl Event {
    /// Reads one event, with its blank line or without.
    pub fn read(event: &[u8]) -> Self {
        let lines = event.split(|byte| *byte == b'\n').filter_map(|line| line.strip_prefix(b"data:"));
        let data: Vec<&[u8]> = lines.map(<[u8]>::trim_ascii).collect();
        let joined;
        let data = match data.as_slice() {
            [] => return Self::Other,
            [one] => *one,
            several => {
                joined = several.join(&b'\n');
                &joined
            }
        };
        if data == b"[DONE]" {
            return Self::Done;
        }
        match serde_json::from_slice::<Chunk>(data) {
            Ok(Chunk { choices: Some(choices), usage: Some(usage) }) if choices.is_empty() => {
                Self::UsageOnly(usage.plausible())
            }
            Ok(Chunk { usage, .. }) => Self::Piece(usage.map(Usage::plausible)),
            Err(_) => Self::Other,
        }
    }
}

/// Cuts a stream of bytes into events.
#[derive(Debug, Default)]
pub struct Events {
    buffer: BytesMut,
    searched: usize,
}

/// A piece of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cut {
    /// One event, with the blank line that ends it.
    Whole(Bytes),
    /// A part of an event that is too long to be held.
    Raw(Bytes),
}

impl Events {
    /// Takes what has come.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole event.
    pub fn cut(&mut self) -> Option<Cut> {
        // A blank line is a line feed, perhaps a carriage return, and a line feed; one of them may still be on its way.
        let from = self.searched.saturating_sub(2);
        let found = self.buffer[from..].iter().enumerate().find_map(|(at, byte)| {
            let rest = &self.buffer[from + at + 1..];
            match (byte, rest) {
                (b'\n', [b'\n', ..]) => Some(from + at + 2),
                (b'\n', [b'\r', b'\n', ..]) => Some(from + at + 3),
                _ => None,
            }
        });
        if let Some(end) = found {
            self.searched = 0;
            return Some(Cut::Whole(self.buffer.split_to(end).freeze()));
        }
        self.searched = self.buffer.len();
        if self.buffer.len() > MAX_EVENT {
            self.searched = 0;
            return Some(Cut::Raw(self.buffer.split().freeze()));
        }
        None
    }

    /// What is left when the stream ends.
    pub fn rest(&mut self) -> Option<Bytes> {
        self.searched = 0;
        (!self.buffer.is_empty()).then(|| self.buffer.split().freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(pieces: &[&[u8]]) -> Vec<Bytes> {
        let mut events = Events::default();
        let mut cut = Vec::new();
        for piece in pieces {
            events.push(piece);
            while let Some(Cut::Whole(event)) = events.cut() {
                cut.push(event);
            }
        }
        cut.extend(events.rest());
        cut
    }

    #[test]
    fn events_are_cut_alike_wherever_the_network_cuts_the_bytes() {
        let stream = b"data: a\n\ndata: b\r\n\r\n: comment\n\ndata: c\ndata: d\n\nleft";
        let whole = cut(&[stream]);
        assert_eq!(whole.len(), 5);
        assert_eq!(whole.concat(), stream);
        for at in 0..stream.len() {
            let (one, two) = stream.split_at(at);
            assert_eq!(cut(&[one, two]), whole, "cut at {at}");
        }
        let bytewise: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(cut(&bytewise), whole);
    }

    #[test]
    fn an_endless_event_is_passed_on_and_not_held() {
        let mut events = Events::default();
        // A thousand streams with one each are 64 MiB of a pod that has 1024.
        events.push(&[b'x'; (64 << 10) + 1]);
        assert!(matches!(events.cut(), Some(Cut::Raw(raw)) if raw.len() == (64 << 10) + 1));
        assert_eq!(events.cut(), None);
    }

    #[test]
    fn the_chunk_with_the_usage_is_told_from_the_pieces_of_the_answer() {
        let usage = Usage { prompt_tokens: 3, completion_tokens: 5 };
        let read = |data: &str| Event::read(format!("data: {data}\n\n").as_bytes());
        assert_eq!(
            read(r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":5}}"#),
            Event::UsageOnly(usage)
        );
        assert_eq!(read(r#"{"choices":[{"delta":{}}],"usage":null}"#), Event::Piece(None));
        assert_eq!(
            read(r#"{"choices":[{}],"usage":{"prompt_tokens":3,"completion_tokens":5}}"#),
            Event::Piece(Some(usage))
        );
        assert_eq!(read("[DONE]"), Event::Done);
        assert_eq!(Event::read(b": keep-alive\n\n"), Event::Other);
        assert_eq!(read("not json"), Event::Other);
    }

    #[test]
    fn an_absurd_claim_of_tokens_is_cut() {
        let claim = format!(r#"{{"choices":[],"usage":{{"prompt_tokens":{},"completion_tokens":1}}}}"#, u64::MAX);
        let Event::UsageOnly(usage) = Event::read(format!("data: {claim}").as_bytes()) else { panic!() };
        assert_eq!(usage.prompt_tokens, MAX_TOKENS);
    }
}
