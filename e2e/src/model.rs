//! The language model of the tests: a real GGUF file of 469 kB, the same bytes on every machine.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::cache::{Cache, Key};
use crate::command;
use crate::toolchain::{Report, checkout};

/// The model's file; another seed gives another model of the same size.
pub fn tiny_llama(cache: &Cache, seed: u32, report: Report<'_>) -> Result<PathBuf> {
    let script = checkout().join("e2e/models/tiny_llama.py");
    let seed = seed.to_string();
    let key = Key::of([("script", std::fs::read(&script)?.as_slice()), ("seed", seed.as_bytes())]);
    let name = "tiny-llama.gguf";
    let entry = cache.get_or_make("models", &key, |draft| {
        report("writing the model tiny-llama");
        let mut python = Command::new("python3");
        command::run(python.arg(&script).arg(draft.join(name)).args(["--seed", &seed])).map(drop)
    })?;
    Ok(entry.join(name))
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;

    /// The digest that other tests and samples name; it changes only if the script does.
    const DIGEST_OF_SEED_1: &str = "65cb584ed23a86f0b19e8cb728438252309a1bf49f2ad77100779df2805aa2e5";

    #[test]
    fn the_model_has_the_same_bytes_everywhere() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().to_owned()).unwrap();
        let digest =
            |seed| hex::encode(Sha256::digest(std::fs::read(tiny_llama(&cache, seed, &|_| {}).unwrap()).unwrap()));
        assert_eq!(digest(1), DIGEST_OF_SEED_1);
        assert_ne!(digest(2), DIGEST_OF_SEED_1);
    }
}
