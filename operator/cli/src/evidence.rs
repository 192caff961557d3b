//! What an expulsion or an appeal rests on, as people name it.

use std::fs::File;
use std::io::{BufReader, Read as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use koinon_core::body::hearing::MAX_EVIDENCE;
use koinon_core::body::{Document, EvidenceRef};
use koinon_core::ids::{Digest, StatementId};
use koinon_core::policy::Commons;
use sha2::{Digest as _, Sha256};

/// How evidence is named, for the help of the commands that take it.
pub const HELP: &str = "A log entry by its id (sha256:…), or a document with what it shows in one line, as FILE:TEXT or \
                        sha256:…:TEXT. Of a document only the digest is signed: send the file to the others yourself";

/// The length of a digest as it is written.
const DIGEST: usize = "sha256:".len() + 64;

/// Reads what was named, computing the digests of files.
///
/// # Errors
/// Where a name is neither an id nor a file with a text, or there are too many.
pub fn read(named: &[String]) -> anyhow::Result<Vec<EvidenceRef>> {
    if named.len() > MAX_EVIDENCE {
        bail!("{} pieces of evidence are named: at most {MAX_EVIDENCE} are allowed", named.len());
    }
    named.iter().map(|one| piece(one).with_context(|| format!("--evidence {one:?}"))).collect()
}

fn piece(named: &str) -> anyhow::Result<EvidenceRef> {
    if let Ok(entry) = named.parse::<StatementId>() {
        return Ok(EvidenceRef::Entry(entry));
    }
    let known = named.get(..DIGEST).and_then(|digest| digest.parse::<Digest>().ok());
    let (digest, text) = match (known, named.split_once(':')) {
        (Some(digest), _) => (digest, named.get(DIGEST + 1..).unwrap_or_default()),
        (None, Some((file, text))) => (of_file(Path::new(file))?, text),
        (None, None) => bail!("write FILE:TEXT, with what the document shows in one line, or the id of a log entry"),
    };
    let text = text.trim();
    if text.is_empty() {
        bail!("say what the document shows, in one line: FILE:TEXT");
    }
    Ok(EvidenceRef::Document(Document { digest, text: text.parse()? }))
}

fn of_file(path: &Path) -> anyhow::Result<Digest> {
    let mut file = BufReader::new(File::open(path).with_context(|| format!("cannot open {}", path.display()))?);
    let (mut hash, mut part) = (Sha256::new(), [0_u8; 8192]);
    loop {
        match file.read(&mut part).with_context(|| format!("cannot read {}", path.display()))? {
            0 => return Ok(Digest(hash.finalize().into())),
            read => hash.update(&part[..read]),
        }
    }
}

/// Evidence as people read it; of an entry also what it is, where it is held here.
pub fn told(commons: &Commons, evidence: &EvidenceRef) -> String {
    match evidence {
        EvidenceRef::Entry(id) => match commons.replica().get(id) {
            Some(entry) => {
                let (kind, author) = (entry.statement.kind(), entry.statement.author());
                format!("entry {id}: a {kind} of {author}, position {}", entry.seq())
            }
            None => format!("entry {id}, which no log here holds"),
        },
        EvidenceRef::Document(Document { digest, text }) => {
            format!("document {digest}: {}", crate::output::one_line(text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(named: &str) -> anyhow::Result<EvidenceRef> {
        read(&[named.to_owned()]).map(|mut all| all.remove(0))
    }

    #[test]
    fn an_id_is_an_entry_and_a_file_with_a_text_is_a_document() {
        let digest = Digest::of(b"meters");
        assert_eq!(one(&digest.to_string()).unwrap(), EvidenceRef::Entry(StatementId(digest)));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("meters.csv");
        std::fs::write(&path, b"meters").unwrap();
        let document = EvidenceRef::Document(Document { digest, text: "what: they showed".parse().unwrap() });
        assert_eq!(one(&format!("{}:what: they showed", path.display())).unwrap(), document);
        assert_eq!(one(&format!("{digest}:what: they showed")).unwrap(), document);
    }

    #[test]
    fn what_is_neither_says_how_it_is_written() {
        for (named, said) in [("meters", "FILE:TEXT"), ("/nowhere/at/all:text", "cannot open"), ("sha256:ab", "open")] {
            let error = format!("{:#}", one(named).unwrap_err());
            assert!(error.contains(said), "{named}: {error}");
        }
        let bare = format!("{}:", Digest::of(b"meters"));
        assert!(format!("{:#}", one(&bare).unwrap_err()).contains("say what the document shows"));
        assert!(read(&vec![bare; 17]).unwrap_err().to_string().contains("at most 16"));
    }
}
