//! Binaries and images that are made once per content and kept outside the checkout.
//!
//! An entry is a folder named by a digest of what it was made from. It is made under another name and renamed into
//! place, so an interrupted build leaves nothing that looks finished.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

/// Where finished things are kept: `$KOINON_CACHE`, else `~/.cache/koinon`.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

/// Names one entry: 16 hex digits of a SHA-256 over everything that decides its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    /// A key over labelled parts; the label keeps two parts from running into each other.
    pub fn of<'a>(parts: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let mut hash = Sha256::new();
        for (label, bytes) in parts {
            hash.update((label.len() as u64).to_be_bytes());
            hash.update(label);
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        }
        Self(hex::encode(hash.finalize())[..16].to_owned())
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Cache {
    /// The cache that the environment names.
    pub fn from_env() -> Result<Self> {
        Self::at(Self::folder()?)
    }

    /// Where the environment puts it; nothing is made there.
    pub fn folder() -> Result<PathBuf> {
        if let Some(dir) = std::env::var_os("KOINON_CACHE") {
            return Ok(PathBuf::from(dir));
        }
        let home = std::env::var_os("HOME").context("neither KOINON_CACHE nor HOME is set; set KOINON_CACHE")?;
        Ok(Path::new(&home).join(".cache/koinon"))
    }

    /// A cache in a given folder.
    pub fn at(root: PathBuf) -> Result<Self> {
        fs::create_dir_all(&root).with_context(|| format!("making the cache folder {}", root.display()))?;
        let root = root.canonicalize().with_context(|| format!("resolving the cache folder {}", root.display()))?;
        Ok(Self { root })
    }

    /// The cache's own folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder that holds, or would hold, an entry.
    pub fn path(&self, kind: &str, key: &Key) -> PathBuf {
        self.root.join(kind).join(key.as_str())
    }

    /// The folder of a finished entry.
    pub fn find(&self, kind: &str, key: &Key) -> Option<PathBuf> {
        let path = self.path(kind, key);
        path.is_dir().then_some(path)
    }

    /// Returns the entry, made by `make` in an empty folder if it is not there yet.
    ///
    /// Guarantee: one process makes an entry at a time, and only a finished one gets its name.
    pub fn get_or_make(&self, kind: &str, key: &Key, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let done = self.path(kind, key);
        if done.is_dir() {
            return Ok(done);
        }
        let shelf = self.root.join(kind);
        fs::create_dir_all(&shelf).with_context(|| format!("making {}", shelf.display()))?;
        let _lock = self.lock(kind)?;
        if done.is_dir() {
            return Ok(done);
        }
        let draft = shelf.join(format!(".{}.draft", key.as_str()));
        if draft.exists() {
            fs::remove_dir_all(&draft).with_context(|| format!("removing the unfinished {}", draft.display()))?;
        }
        fs::create_dir(&draft).with_context(|| format!("making {}", draft.display()))?;
        make(&draft)?;
        fs::rename(&draft, &done).with_context(|| format!("naming the finished {}", done.display()))?;
        Ok(done)
    }

    /// Held while something of a kind is made, so that two processes do not build the same thing twice.
    fn lock(&self, kind: &str) -> Result<File> {
        let path = self.root.join(format!("{kind}.lock"));
        let file = File::create(&path).with_context(|| format!("opening {}", path.display()))?;
        file.lock().with_context(|| format!("locking {}", path.display()))?;
        Ok(file)
    }
}

/// All files under a folder with their contents, in name order: what a key is made of. Folders named in `skip` are left out.
pub fn contents(folder: &Path, skip: &[&str]) -> Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    let mut pending = vec![folder.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if !skip.contains(&name.as_str()) {
                    pending.push(path);
                }
            } else {
                let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
                found.push((path.strip_prefix(folder)?.to_string_lossy().into_owned(), bytes));
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key::of([("text", text.as_bytes())])
    }

    #[test]
    fn an_entry_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().to_owned()).unwrap();
        let mut made = 0;
        for _ in 0..2 {
            let path = cache
                .get_or_make("tools", &key("a"), |draft| {
                    made += 1;
                    fs::write(draft.join("tool"), "x").map_err(Into::into)
                })
                .unwrap();
            assert_eq!(fs::read_to_string(path.join("tool")).unwrap(), "x");
        }
        assert_eq!(made, 1);
    }

    #[test]
    fn an_entry_that_failed_half_way_is_not_found_and_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().to_owned()).unwrap();
        let failed = cache.get_or_make("tools", &key("a"), |draft| {
            fs::write(draft.join("half"), "x")?;
            anyhow::bail!("power cut")
        });
        assert!(failed.is_err());
        assert!(cache.find("tools", &key("a")).is_none());
        let path = cache.get_or_make("tools", &key("a"), |_| Ok(())).unwrap();
        assert!(!path.join("half").exists());
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        assert_ne!(Key::of([("a", b"bc".as_slice())]), Key::of([("ab", b"c".as_slice())]));
    }
}
