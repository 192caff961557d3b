//! `kubectl koinon digest`: the identity of a model whose weights lie on this machine.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use koinon_core::ids::{Bytes, Digest};
use koinon_core::manifest::{FileFacts, MAX_FILES, Manifest};
use serde_json::json;
use sha2::{Digest as _, Sha256};

/// What a folder at a source calls its manifest; the weights cache asks for it under this name.
const MANIFEST: &str = "koinon.manifest";
/// How deep folders may lie in each other: a link that leads back must end somewhere.
const MAX_DEPTH: usize = 32;
/// How much of a file is read at once.
const CHUNK: usize = 1 << 20;

/// How a folder is published.
const EXAMPLES: &str = "\
Example, a model that is one GGUF file. Its name counts: it has to be the one at
the end of the uri:
  kubectl koinon digest Qwen3-8B-Q4_K_M.gguf
Example, a model that is a folder. Its source has to serve the manifest beside
the files, as koinon.manifest:
  kubectl koinon digest -o manifest ./model > koinon.manifest";

/// Compute the manifest digest of weights on this machine, as the weights caches of all hosts verify it.
///
/// Give one file, several files, or one folder: together they are one model. Needs no cluster. In a folder a
/// koinon.manifest and whatever begins with a dot are left out.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The model's file or files, or its folder.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Print the manifest too; without this flag only the digest is printed.
    #[arg(short, long, value_enum)]
    output: Option<Form>,
}

/// How the manifest is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// The text whose SHA-256 is the digest: a source serves it as koinon.manifest (the digest goes to standard error).
    Manifest,
    /// The digest, the size and the files.
    Yaml,
    /// The same as JSON.
    Json,
}

impl Args {
    pub fn run(self) -> anyhow::Result<()> {
        let Self { paths, output } = self;
        let manifest = manifest(&paths)?;
        let digest = manifest.digest();
        let described = || {
            let files: Vec<_> = manifest
                .files()
                .map(|(path, facts)| json!({"path": path, "sha256": facts.digest.hex(), "size": facts.size.0}))
                .collect();
            json!({"manifestDigest": digest.to_string(), "totalBytes": manifest.total().0, "files": files})
        };
        match output {
            None => println!("{digest}"),
            Some(Form::Manifest) => {
                print!("{}", manifest.text());
                eprintln!("{digest}");
            }
            Some(Form::Yaml) => print!("{}", serde_yaml::to_string(&described())?),
            Some(Form::Json) => println!("{}", serde_json::to_string_pretty(&described())?),
        }
        Ok(())
    }
}

/// The manifest of what lies at `paths`.
fn manifest(paths: &[PathBuf]) -> anyhow::Result<Manifest> {
    let mut files = Vec::new();
    match paths {
        [folder] if folder.is_dir() => walk(folder, "", 0, &mut files)?,
        several => {
            for path in several {
                if path.is_dir() {
                    bail!("{} is a folder: give one folder alone, or files", path.display());
                }
                let name = path.file_name().and_then(|name| name.to_str());
                let name = name.with_context(|| format!("{} has no name in UTF-8", path.display()))?;
                files.push((name.to_owned(), path.clone()));
            }
        }
    }
    let mut text = String::new();
    for (name, path) in files {
        let FileFacts { digest, size } = hash(&path)?;
        text.push_str(&format!("{} {size} {name}\n", digest.hex()));
    }
    // Read as the caches read it, so that what they would refuse is refused here.
    Manifest::parse(text.as_bytes()).context("these files make no model")
}

/// Collects the files below `folder`; links to files are followed, as downloads of model hubs consist of them.
fn walk(folder: &Path, within: &str, depth: usize, files: &mut Vec<(String, PathBuf)>) -> anyhow::Result<()> {
    if depth > MAX_DEPTH {
        bail!("{} lies deeper than {MAX_DEPTH} folders: does a link lead back?", folder.display());
    }
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read the folder {}", folder.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("cannot read the folder {}", folder.display()))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.with_context(|| format!("the name of {} is not UTF-8", path.display()))?;
        if name.starts_with('.') {
            eprintln!("left out: {}", path.display());
            continue;
        }
        let facts = fs::metadata(&path).with_context(|| format!("cannot look at {}", path.display()))?;
        if facts.is_dir() {
            walk(&path, &format!("{within}{name}/"), depth + 1, files)?;
        } else if !facts.is_file() {
            bail!("{} is neither a file nor a folder: remove it, no source can serve it", path.display());
        } else if !(depth == 0 && name == MANIFEST) {
            files.push((format!("{within}{name}"), path));
        }
        if files.len() > MAX_FILES {
            bail!("{} holds more than {MAX_FILES} files, which is all that a model may have", folder.display());
        }
    }
    Ok(())
}

fn hash(path: &Path) -> anyhow::Result<FileFacts> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let (mut hash, mut size, mut chunk) = (Sha256::new(), 0_u64, vec![0; CHUNK]);
    loop {
        let read = file.read(&mut chunk).with_context(|| format!("cannot read {}", path.display()))?;
        if read == 0 {
            return Ok(FileFacts { digest: Digest(hash.finalize().into()), size: Bytes(size) });
        }
        hash.update(&chunk[..read]);
        size += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, content: &[u8]) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    #[test]
    fn one_file_has_the_digest_that_the_cache_computes_of_a_gguf() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tiny.gguf");
        // Longer than one chunk, so that the pieces have to fit together.
        let content: Vec<u8> = (0..CHUNK * 2 + 7).map(|n| (n % 251) as u8).collect();
        write(&path, &content);
        let facts = FileFacts { digest: Digest::of(&content), size: Bytes(content.len() as u64) };
        let expected = Manifest::single("tiny.gguf", facts).unwrap();
        assert_eq!(manifest(&[path]).unwrap().digest(), expected.digest());
    }

    #[test]
    fn a_folder_has_the_digest_of_its_files_without_its_manifest_and_what_is_hidden() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("model");
        write(&folder.join("model.safetensors"), b"weights");
        write(&folder.join("config/config.json"), b"{}");
        write(&folder.join(".git/HEAD"), b"ref");
        let line = |content: &[u8], path: &str| format!("{} {} {path}\n", Digest::of(content).hex(), content.len());
        let text = line(b"weights", "model.safetensors") + &line(b"{}", "config/config.json");
        let expected = Manifest::parse(text.as_bytes()).unwrap();
        let found = manifest(std::slice::from_ref(&folder)).unwrap();
        assert_eq!(found, expected);
        // Publishing it changes nothing, and a cache reads back the same identity.
        write(&folder.join(MANIFEST), found.text().as_bytes());
        assert_eq!(manifest(&[folder]).unwrap().digest(), expected.digest());
        assert_eq!(Manifest::parse(found.text().as_bytes()).unwrap().digest(), expected.digest());
    }

    #[test]
    fn another_byte_and_another_name_make_another_model() {
        let dir = tempfile::tempdir().unwrap();
        let digests: Vec<_> = [("a/x.gguf", b"1"), ("b/x.gguf", b"2"), ("c/y.gguf", b"1")]
            .map(|(name, content)| {
                write(&dir.path().join(name), content);
                manifest(&[dir.path().join(name)]).unwrap().digest()
            })
            .into();
        assert!(digests[0] != digests[1] && digests[0] != digests[2]);
    }

    #[test]
    fn what_is_no_model_is_refused_with_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let empty = manifest(&[dir.path().to_owned()]).unwrap_err();
        assert!(format!("{empty:#}").contains("names no file"), "{empty:#}");
        let gone = manifest(&[dir.path().join("gone.gguf")]).unwrap_err();
        assert!(format!("{gone:#}").contains("gone.gguf"), "{gone:#}");
        write(&dir.path().join("a/x"), b"1");
        write(&dir.path().join("b/x"), b"2");
        let twice = manifest(&[dir.path().join("a/x"), dir.path().join("b/x")]).unwrap_err();
        assert!(format!("{twice:#}").contains("twice"), "{twice:#}");
    }

    #[cfg(unix)]
    #[test]
    fn links_to_files_are_followed_and_a_link_that_leads_back_ends() {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("blobs/1"), b"weights");
        let folder = dir.path().join("snapshot");
        fs::create_dir(&folder).unwrap();
        std::os::unix::fs::symlink("../blobs/1", folder.join("model.safetensors")).unwrap();
        let facts = FileFacts { digest: Digest::of(b"weights"), size: Bytes(7) };
        let expected = Manifest::single("model.safetensors", facts).unwrap();
        assert_eq!(manifest(std::slice::from_ref(&folder)).unwrap(), expected);
        std::os::unix::fs::symlink(".", folder.join("loop")).unwrap();
        let looped = format!("{:#}", manifest(&[folder]).unwrap_err());
        assert!(looped.contains("does a link lead back"), "{looped}");
    }
}
