//! The manifest of a model: which files, how large, with which content. Its digest is the model's identity.

use std::collections::BTreeMap;

use crate::ids::{Bytes, Digest, ManifestDigest};

/// Most files of one model.
pub const MAX_FILES: usize = 4096;
/// Largest manifest as text.
pub const MAX_MANIFEST: usize = 1024 * 1024;

/// One file of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileFacts {
    /// Digest of the content.
    pub digest: Digest,
    /// Length of the content.
    pub size: Bytes,
}

/// Why text is not a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// The text is too long, not UTF-8, empty, or has too many lines.
    #[error("cannot read the manifest: {0}")]
    Form(&'static str),
    /// One line is not `<sha256> <size> <path>`.
    #[error("cannot read line {line} of the manifest: {rule}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What it breaks.
        rule: &'static str,
    },
}

/// The files of a model, by path.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Manifest {
    files: BTreeMap<String, FileFacts>,
}

impl Manifest {
    /// A manifest of one file, as for a GGUF.
    pub fn single(path: &str, facts: FileFacts) -> Result<Self, ManifestError> {
        let mut manifest = Self::default();
        manifest.add(path, facts).map_err(|rule| ManifestError::Line { line: 1, rule })?;
        Ok(manifest)
    }

    /// Reads lines `<sha256 hex> <size> <path>`, in any order.
    pub fn parse(text: &[u8]) -> Result<Self, ManifestError> {
        if text.len() > MAX_MANIFEST {
            return Err(ManifestError::Form("it is larger than 1 MiB"));
        }
        let text = std::str::from_utf8(text).map_err(|_| ManifestError::Form("it is not UTF-8"))?;
        let mut manifest = Self::default();
        for (index, line) in text.lines().enumerate() {
            let wrong = |rule| ManifestError::Line { line: index + 1, rule };
            let mut parts = line.splitn(3, ' ');
            let (Some(digest), Some(size), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
                return Err(wrong("it must be: sha256 in hex, a space, the size, a space, the path"));
            };
            let digest =
                format!("sha256:{digest}").parse().map_err(|_| wrong("the digest must be 64 lower case hex digits"))?;
            let plain = size == "0" || !size.starts_with(['0', '+']);
            let size =
                size.parse().ok().filter(|_| plain).ok_or_else(|| wrong("the size must be a plain decimal number"))?;
            manifest.add(path, FileFacts { digest, size: Bytes(size) }).map_err(wrong)?;
        }
        if manifest.files.is_empty() {
            return Err(ManifestError::Form("it names no file"));
        }
        Ok(manifest)
    }

    fn add(&mut self, path: &str, facts: FileFacts) -> Result<(), &'static str> {
        // Paths are joined to a folder of the host's cache: one that leaves it would write anywhere.
        let safe = !path.is_empty()
            && path.len() <= 512
            && !path.chars().any(char::is_control)
            && !path.contains('\\')
            && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
        if !safe {
            return Err("the path must be relative, without '..', empty parts, backslashes or control characters");
        }
        if self.files.len() >= MAX_FILES {
            return Err("a model has at most 4096 files");
        }
        if self.files.insert(path.to_owned(), facts).is_some() {
            return Err("the path comes twice");
        }
        Ok(())
    }

    /// The files in the order of their paths.
    pub fn files(&self) -> impl Iterator<Item = (&str, FileFacts)> {
        self.files.iter().map(|(path, facts)| (path.as_str(), *facts))
    }

    /// The length of all files together.
    pub fn total(&self) -> Bytes {
        Bytes(self.files.values().fold(0, |sum, facts| sum.saturating_add(facts.size.0)))
    }

    /// The canonical text: the lines, sorted bytewise, each with its newline.
    pub fn text(&self) -> String {
        let mut lines: Vec<String> =
            self.files.iter().map(|(path, f)| format!("{} {} {path}\n", f.digest.hex(), f.size)).collect();
        lines.sort_unstable();
        lines.concat()
    }

    /// The model's identity.
    pub fn digest(&self) -> ManifestDigest {
        ManifestDigest(Digest::of(self.text().as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(content: &[u8], path: &str) -> String {
        format!("{} {} {path}\n", Digest::of(content).hex(), content.len())
    }

    #[test]
    fn the_digest_does_not_depend_on_the_order_of_the_lines() {
        let (a, b) = (line(b"weights", "model.safetensors"), line(b"{}", "config/config.json"));
        let one = Manifest::parse(format!("{a}{b}").as_bytes()).unwrap();
        let two = Manifest::parse(format!("{b}{a}").as_bytes()).unwrap();
        assert_eq!(one.digest(), two.digest());
        assert_eq!(one.total(), Bytes(9));
        let mut sorted = [a, b];
        sorted.sort();
        assert_eq!(one.digest().0, Digest::of(sorted.concat().as_bytes()));
    }

    #[test]
    fn a_gguf_has_one_line() {
        let facts = FileFacts { digest: Digest::of(b"gguf"), size: Bytes(4) };
        let single = Manifest::single("tiny.gguf", facts).unwrap();
        assert_eq!(single, Manifest::parse(line(b"gguf", "tiny.gguf").as_bytes()).unwrap());
    }

    #[test]
    fn paths_that_leave_the_cache_and_crooked_lines_are_refused() {
        for path in ["../x", "/etc/passwd", "a//b", "a/./b", "", "a\\..\\b", "a\u{7f}b"] {
            assert!(Manifest::parse(line(b"x", path).as_bytes()).is_err(), "{path:?}");
        }
        let digest = Digest::of(b"x").hex();
        for text in [
            String::new(),
            "x".into(),
            format!("{digest} 01 a"),
            format!("{digest} -1 a"),
            format!("{} 1 a", digest.to_uppercase()),
        ] {
            assert!(Manifest::parse(text.as_bytes()).is_err(), "{text:?}");
        }
        let twice = line(b"x", "a") + &line(b"y", "a");
        assert!(Manifest::parse(twice.as_bytes()).unwrap_err().to_string().contains("twice"));
    }
}
