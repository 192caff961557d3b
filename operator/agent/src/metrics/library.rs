//! The digest of the file that answered as NVML, made anew only when the file is another one.

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::LibraryFile;

/// Ten times the driver's library. What is larger is none, and is not read.
const MAX_BYTES: u64 = 64 << 20;

/// What tells one version of a file from the next.
type Stamp = (u64, u64, u64, i64, i64);

/// The library that was looked at last.
#[derive(Debug, Default)]
pub struct Library {
    known: Option<(PathBuf, Stamp, LibraryFile)>,
}

impl Library {
    /// The file at `path` with its digest; none without a path, and where it cannot be read.
    pub async fn look(&mut self, path: Option<&Path>) -> Option<LibraryFile> {
        let path = path?.to_owned();
        let stamp = stamp(&path)?;
        if let Some((known, at, file)) = &self.known
            && (known, *at) == (&path, stamp)
        {
            return Some(file.clone());
        }
        let read = path.clone();
        let sha256 = tokio::task::spawn_blocking(move || digest(&read)).await.ok()??;
        let file = LibraryFile { path: path.display().to_string(), sha256 };
        self.known = Some((path, stamp, file.clone()));
        Some(file)
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let data = std::fs::metadata(path).ok().filter(|data| data.is_file() && data.len() <= MAX_BYTES)?;
    Some((data.dev(), data.ino(), data.len(), data.mtime(), data.mtime_nsec()))
}

fn digest(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
    Some(Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_is_known_by_its_digest_and_another_in_its_place_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("libnvidia-ml.so.1");
        let mut library = Library::default();
        assert_eq!(library.look(Some(&path)).await, None);
        std::fs::write(&path, "abc").unwrap();
        let first = library.look(Some(&path)).await.unwrap();
        assert_eq!(first.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(library.look(Some(&path)).await.as_ref(), Some(&first));
        std::fs::write(&path, "abcd").unwrap();
        assert_ne!(library.look(Some(&path)).await, Some(first));
        assert_eq!(library.look(None).await, None);
        assert_eq!(library.look(Some(folder.path())).await, None, "a folder is no library");
    }
}
