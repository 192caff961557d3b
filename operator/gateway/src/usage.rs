//! The usage in an answer that is not a stream, read while the answer passes.
//!
//! An answer has up to as many megabytes as its engine likes and there are a thousand of them at once, so none is kept: of
//! all that passes only the value of the one field is held, and that is short.

use crate::sse::Usage;

/// Longest value of `usage` that is read. Engines say a dozen numbers, in some hundred bytes.
const MAX_VALUE: usize = 4096;
/// The field, as it stands in an answer.
const FIELD: &[u8] = b"usage";

/// Follows one JSON object, byte by byte, and remembers its own `usage`; one that stands deeper, or in a text, is not it.
#[derive(Debug, Default)]
pub struct UsageScan {
    /// Objects and lists that are open.
    depth: usize,
    text: Text,
    /// Whether what comes next in the outermost object is the name of a field.
    names_field: bool,
    /// The name of the field of the outermost object that this is in, as far as it is needed to tell it from others.
    name: Vec<u8>,
    value: Option<Vec<u8>>,
    found: Option<Usage>,
    seen: bool,
    end: End,
}

/// Whether this is in a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Text {
    #[default]
    Outside,
    Inside,
    /// After a backslash.
    Escaped,
}

/// How far the object is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum End {
    #[default]
    Open,
    Whole,
    /// It is no object, or says two things.
    Spoiled,
}

impl UsageScan {
    /// Follows what has come.
    pub fn push(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.end == End::Spoiled {
                return;
            }
            self.step(*byte);
        }
    }

    /// The usage, if the object is whole and says one.
    pub fn usage(&self) -> Option<Usage> {
        self.found.filter(|_| self.end == End::Whole).map(Usage::plausible)
    }

    fn step(&mut self, byte: u8) {
        if self.depth == 0 {
            match (self.end, byte) {
                (_, b' ' | b'\t' | b'\r' | b'\n') => {}
                (End::Open, b'{') => (self.depth, self.names_field) = (1, true),
                _ => self.end = End::Spoiled,
            }
            return;
        }
        match (self.text, byte) {
            (Text::Outside, b'"') => {
                self.text = Text::Inside;
                if self.depth == 1 && self.names_field {
                    self.name.clear();
                }
                return self.hold(byte);
            }
            (Text::Outside, _) => {}
            (Text::Inside, b'\\') => self.text = Text::Escaped,
            (Text::Inside, b'"') => {
                self.text = Text::Outside;
                return self.hold(byte);
            }
            (Text::Inside | Text::Escaped, _) => self.text = Text::Inside,
        }
        if self.text != Text::Outside {
            // One byte more than the field has tells a longer name from it.
            if self.depth == 1 && self.names_field && self.name.len() <= FIELD.len() {
                self.name.push(byte);
            }
            return self.hold(byte);
        }
        match (self.depth, byte) {
            (1, b':') if self.names_field => {
                self.names_field = false;
                if self.name == FIELD {
                    self.value = Some(Vec::new());
                }
                return;
            }
            (1, b',' | b'}' | b']') => {
                self.close();
                self.names_field = true;
            }
            _ => {}
        }
        match byte {
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth -= 1;
                if self.depth == 0 && self.end == End::Open {
                    self.end = End::Whole;
                }
            }
            _ => {}
        }
        self.hold(byte);
    }

    /// Keeps a byte of the field's value.
    fn hold(&mut self, byte: u8) {
        match &mut self.value {
            Some(value) if value.len() < MAX_VALUE => value.push(byte),
            Some(_) => self.end = End::Spoiled,
            None => {}
        }
    }

    /// A field of the outermost object has ended.
    fn close(&mut self) {
        let Some(value) = self.value.take() else { return };
        // Which of two would count is anybody's guess.
        if std::mem::replace(&mut self.seen, true) {
            self.end = End::Spoiled;
            return;
        }
        self.found = serde_json::from_slice::<Option<Usage>>(&value).ok().flatten();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: Option<Usage> = Some(Usage { prompt_tokens: 3, completion_tokens: 5 });

    fn read(pieces: &[&[u8]]) -> Option<Usage> {
        let mut scan = UsageScan::default();
        for piece in pieces {
            scan.push(piece);
        }
        scan.usage()
    }

    #[test]
    fn the_usage_is_found_wherever_it_stands_and_wherever_the_network_cuts_the_bytes() {
        for answer in [
            r#"{"usage":{"prompt_tokens":3,"completion_tokens":5},"choices":[]}"#,
            r#"{"choices":[{"message":{"content":"hello"}}],"usage":{"prompt_tokens":3,"completion_tokens":5}}"#,
            " {\n \"id\" : \"a\\\\\", \"usage\" : { \"prompt_tokens\" : 3 , \"completion_tokens\" : 5,\
              \"details\": {\"cached\": [1, \"}\"]} } , \"n\": 1 } \r\n",
        ] {
            assert_eq!(read(&[answer.as_bytes()]), SAID, "{answer}");
            for at in 0..answer.len() {
                let (one, two) = answer.as_bytes().split_at(at);
                assert_eq!(read(&[one, two]), SAID, "cut at {at}");
            }
        }
    }

    #[test]
    fn what_a_model_writes_of_usage_is_not_the_usage() {
        for answer in [
            r#"{"choices":[{"usage":{"prompt_tokens":9,"completion_tokens":9}}]}"#,
            r#"{"text":"\",\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":9}"}"#,
            r#"{"text":"usage","x":{"prompt_tokens":9,"completion_tokens":9}}"#,
            r#"{"usages":{"prompt_tokens":9,"completion_tokens":9},"usag":{"prompt_tokens":9}}"#,
            r#"{"a":"usage":{"prompt_tokens":9}}"#,
        ] {
            assert_eq!(read(&[answer.as_bytes()]), None, "{answer}");
        }
    }

    #[test]
    fn an_answer_that_is_cut_says_two_things_or_is_no_object_says_nothing() {
        for answer in [
            r#"{"usage":{"prompt_tokens":3,"completion_tokens":5},"choices":["#,
            r#"{"usage":{"prompt_tokens":3},"usage":{"prompt_tokens":4}}"#,
            r#"{"usage":{"prompt_tokens":3}} {"usage":{"prompt_tokens":3}}"#,
            r#"[{"usage":{"prompt_tokens":3}}]"#,
            r#"{"usage":null}"#,
            r#"{"usage":{"prompt_tokens":-3}}"#,
            r#"{"usage":}"#,
            r#""usage""#,
            "}}}]]",
            "",
        ] {
            assert_eq!(read(&[answer.as_bytes()]), None, "{answer}");
        }
    }

    #[test]
    fn nothing_of_a_long_answer_is_held() {
        let mut scan = UsageScan::default();
        let text = vec![b'x'; 1 << 20];
        scan.push(b"{\"");
        scan.push(&text);
        scan.push(b"\":\"");
        scan.push(&text);
        scan.push(b"\",\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":5}");
        assert!(scan.name.capacity() <= 16 && scan.value.as_ref().unwrap().capacity() <= MAX_VALUE);
        scan.push(b"}");
        assert_eq!(scan.usage(), SAID);

        let mut endless = UsageScan::default();
        endless.push(b"{\"usage\":\"");
        endless.push(&text);
        assert!(endless.value.as_ref().unwrap().capacity() <= MAX_VALUE);
        endless.push(b"\"}");
        assert_eq!(endless.usage(), None);
    }
}
