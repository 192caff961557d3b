//! The cache's folder.
//!
//! ```text
//! models/<hex>/koinon.manifest     complete and verified; the folder appears by one rename
//! models/<hex>/files/<path>
//! models/<hex>/used                its time of change says when it was last of use
//! staging/<hex>/request.json       what was asked for, without credentials
//! staging/<hex>/koinon.manifest    of a model with several files
//! staging/<hex>/files/<path>       verified
//! staging/<hex>/parts/<n>          in progress; resumed
//! trash/                           on its way out; emptied at the start
//! ```

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use koinon_core::ids::{Digest, ManifestDigest};
use koinon_core::manifest::Manifest;

/// What the text of a manifest is called, at a source and here.
pub const MANIFEST: &str = "koinon.manifest";

/// A failed operation on the cache's folder.
#[derive(Debug, thiserror::Error)]
#[error("{attempt} {path}: {source}", path = path.display())]
pub struct DiskError {
    /// What was attempted.
    pub attempt: &'static str,
    /// On which path.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

impl DiskError {
    pub(crate) fn at(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { attempt, path, source }
    }
}

/// The cache's folder. All methods block on the disk.
#[derive(Clone, Debug)]
pub struct Disk {
    root: PathBuf,
}

/// A model that was found complete.
#[derive(Debug)]
pub struct Found {
    /// The model.
    pub digest: ManifestDigest,
    /// Its files.
    pub manifest: Manifest,
    /// When it was last of use.
    pub used: SystemTime,
}

/// A model that was found incomplete.
#[derive(Debug)]
pub struct Begun {
    /// The model.
    pub digest: ManifestDigest,
    /// Bytes that are here.
    pub bytes: u64,
    /// What was asked for, if it can be read.
    pub request: Option<Vec<u8>>,
}

impl Disk {
    /// Makes the folders and empties the trash.
    pub fn open(root: &Path) -> Result<Self, DiskError> {
        let disk = Self { root: root.to_owned() };
        let trash = disk.root.join("trash");
        if trash.exists() {
            fs::remove_dir_all(&trash).map_err(DiskError::at("emptying", &trash))?;
        }
        for folder in ["models", "staging", "trash"] {
            let path = disk.root.join(folder);
            fs::create_dir_all(&path).map_err(DiskError::at("making the folder", &path))?;
        }
        Ok(disk)
    }

    /// The folder of a complete model.
    pub fn model(&self, digest: &ManifestDigest) -> PathBuf {
        self.root.join("models").join(digest.hex())
    }

    /// The folder of an incomplete model.
    pub fn staging(&self, digest: &ManifestDigest) -> PathBuf {
        self.root.join("staging").join(digest.hex())
    }

    /// Complete models. One whose manifest or sizes are wrong is thrown away and named in the log: only the rename makes a
    /// model visible, so this is a damaged disk or somebody's hand.
    pub fn complete(&self) -> Result<Vec<Found>, DiskError> {
        let mut found = Vec::new();
        for (digest, path) in self.digests("models")? {
            match read_complete(&path, &digest) {
                Ok(manifest) => {
                    let used = fs::metadata(path.join("used")).and_then(|facts| facts.modified());
                    found.push(Found { digest, manifest, used: used.unwrap_or(SystemTime::UNIX_EPOCH) });
                }
                Err(why) => {
                    tracing::warn!(%digest, why, "throwing away a damaged model");
                    self.hide(&path)?.map_or(Ok(()), |hidden| delete(&hidden))?;
                }
            }
        }
        Ok(found)
    }

    /// Incomplete models.
    pub fn begun(&self) -> Result<Vec<Begun>, DiskError> {
        let staged = self.digests("staging")?.into_iter();
        Ok(staged
            .map(|(digest, path)| Begun {
                digest,
                bytes: self.staged_bytes(&digest),
                request: fs::read(path.join("request.json")).ok(),
            })
            .collect())
    }

    /// Makes the folder of an incomplete model and keeps what was asked for beside it.
    pub fn stage(&self, digest: &ManifestDigest, request: &[u8]) -> Result<PathBuf, DiskError> {
        let path = self.staging(digest);
        for folder in [path.join("files"), path.join("parts")] {
            fs::create_dir_all(&folder).map_err(DiskError::at("making the folder", &folder))?;
        }
        write_whole(&path.join("request.json"), request)?;
        Ok(path)
    }

    /// Bytes of an incomplete model that are here.
    pub fn staged_bytes(&self, digest: &ManifestDigest) -> u64 {
        let staging = self.staging(digest);
        folder_size(&staging.join("files")) + folder_size(&staging.join("parts"))
    }

    /// Moves a verified part to its place among the files.
    pub fn keep(&self, part: &Path, staging: &Path, path: &str) -> Result<(), DiskError> {
        let to = staging.join("files").join(path);
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder).map_err(DiskError::at("making the folder", folder))?;
        }
        fs::rename(part, &to).map_err(DiskError::at("moving a verified file to", &to))
    }

    /// Makes a model visible: everything reaches the disk first, then one rename.
    pub fn publish(&self, digest: &ManifestDigest, manifest: &Manifest) -> Result<(), DiskError> {
        let staging = self.staging(digest);
        write_whole(&staging.join(MANIFEST), manifest.text().as_bytes())?;
        write_whole(&staging.join("used"), b"")?;
        for leftover in [staging.join("parts"), staging.join("request.json")] {
            let removed = if leftover.is_dir() { fs::remove_dir_all(&leftover) } else { fs::remove_file(&leftover) };
            removed.or_else(absent_is_fine).map_err(DiskError::at("removing", &leftover))?;
        }
        sync_folders(&staging)?;
        let to = self.model(digest);
        fs::rename(&staging, &to).map_err(DiskError::at("publishing", &to))?;
        sync_folder(&self.root.join("models"))
    }

    /// Makes a folder invisible at once; what is returned is to be given to [`delete`]. `None` if it was not there.
    pub fn hide(&self, path: &Path) -> Result<Option<PathBuf>, DiskError> {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let trash = self.root.join("trash");
        let free = (0_u32..).map(|turn| trash.join(format!("{name}.{turn}"))).find(|away| !away.exists());
        let away = free.unwrap_or(trash);
        match fs::rename(path, &away) {
            Ok(()) => Ok(Some(away)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(DiskError::at("throwing away", path)(error)),
        }
    }

    /// Notes that a model was of use now.
    pub fn touch(&self, digest: &ManifestDigest) -> Result<(), DiskError> {
        let path = self.model(digest).join("used");
        fs::write(&path, b"").map_err(DiskError::at("writing", &path))
    }

    /// Bytes that the file system has left for us.
    pub fn free(&self) -> Result<u64, DiskError> {
        let facts = rustix::fs::statvfs(&self.root)
            .map_err(|error| DiskError::at("asking for free space at", &self.root)(error.into()))?;
        Ok(facts.f_bavail.saturating_mul(facts.f_frsize))
    }

    fn digests(&self, folder: &str) -> Result<Vec<(ManifestDigest, PathBuf)>, DiskError> {
        let folder = self.root.join(folder);
        let entries = fs::read_dir(&folder).map_err(DiskError::at("listing", &folder))?;
        let named = entries.flatten().filter_map(|entry| {
            let digest = format!("sha256:{}", entry.file_name().to_str()?).parse::<Digest>().ok()?;
            Some((ManifestDigest(digest), entry.path()))
        });
        Ok(named.collect())
    }
}

/// Deletes what [`Disk::hide`] hid. Blocks for as long as the files are large.
pub fn delete(hidden: &Path) -> Result<(), DiskError> {
    fs::remove_dir_all(hidden).map_err(DiskError::at("deleting", hidden))
}

fn read_complete(path: &Path, digest: &ManifestDigest) -> Result<Manifest, String> {
    let text = fs::read(path.join(MANIFEST)).map_err(|error| format!("reading its manifest: {error}"))?;
    let manifest = Manifest::parse(&text).map_err(|error| error.to_string())?;
    if manifest.digest() != *digest {
        return Err(format!("its manifest is that of {}", manifest.digest()));
    }
    for (file, facts) in manifest.files() {
        let size = fs::metadata(path.join("files").join(file)).map(|facts| facts.len()).ok();
        if size != Some(facts.size.0) {
            return Err(format!("{file} has {size:?} bytes instead of {}", facts.size));
        }
    }
    Ok(manifest)
}

/// Writes a small file so that after a crash it is either whole or not there.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
    let beside = path.with_extension("new");
    let write = || {
        let mut file = File::create(&beside)?;
        io::Write::write_all(&mut file, bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    write().map_err(DiskError::at("writing", path))
}

fn folder_size(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(facts) if facts.is_dir() => folder_size(&entry.path()),
            Ok(facts) => facts.len(),
            Err(_) => 0,
        })
        .sum()
}

fn sync_folders(path: &Path) -> Result<(), DiskError> {
    let entries = fs::read_dir(path).map_err(DiskError::at("listing", path))?;
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            sync_folders(&entry.path())?;
        }
    }
    sync_folder(path)
}

fn sync_folder(path: &Path) -> Result<(), DiskError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(DiskError::at("writing to the disk", path))
}

fn absent_is_fine(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use koinon_core::ids::Bytes;
    use koinon_core::manifest::FileFacts;

    use super::*;

    fn model(content: &[u8]) -> Manifest {
        let facts = FileFacts { digest: Digest::of(content), size: Bytes(content.len() as u64) };
        Manifest::single("tiny.gguf", facts).unwrap()
    }

    fn put(disk: &Disk, content: &[u8]) -> ManifestDigest {
        let manifest = model(content);
        let digest = manifest.digest();
        let staging = disk.stage(&digest, b"{}").unwrap();
        fs::write(staging.join("parts/0"), content).unwrap();
        disk.keep(&staging.join("parts/0"), &staging, "tiny.gguf").unwrap();
        disk.publish(&digest, &manifest).unwrap();
        digest
    }

    #[test]
    fn a_published_model_is_found_again_and_its_staging_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::open(folder.path()).unwrap();
        let digest = put(&disk, b"weights");
        let disk = Disk::open(folder.path()).unwrap();
        let found = disk.complete().unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].digest, digest);
        assert!(disk.begun().unwrap().is_empty());
    }

    #[test]
    fn a_model_that_somebody_cut_short_is_thrown_away_and_the_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::open(folder.path()).unwrap();
        let (damaged, good) = (put(&disk, b"weights"), put(&disk, b"other weights"));
        fs::write(disk.model(&damaged).join("files/tiny.gguf"), b"weig").unwrap();
        let found = disk.complete().unwrap();
        assert_eq!(found.iter().map(|found| found.digest).collect::<Vec<_>>(), [good]);
        assert!(!disk.model(&damaged).exists());
    }

    #[test]
    fn a_model_under_another_models_name_is_thrown_away() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::open(folder.path()).unwrap();
        let (digest, other) = (put(&disk, b"weights"), model(b"x").digest());
        fs::rename(disk.model(&digest), disk.model(&other)).unwrap();
        assert!(disk.complete().unwrap().is_empty());
        assert!(!disk.model(&other).exists());
    }

    #[test]
    fn what_was_begun_is_found_with_its_request() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::open(folder.path()).unwrap();
        let digest = model(b"x").digest();
        let staging = disk.stage(&digest, b"{}").unwrap();
        fs::write(staging.join("parts/0"), b"half").unwrap();
        let begun = disk.begun().unwrap();
        assert_eq!((begun[0].digest, begun[0].request.as_deref()), (digest, Some(b"{}".as_slice())));
        assert_eq!(begun[0].bytes, 4);
    }
}
