//! The engine of challenges: its program and the libraries that it loads. The driver's own comes from the node.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::koinon::{build, libraries};
use super::{USER, add_system_files, copy_program};
use crate::cache::{Cache, Key};
use crate::image::{Image, Settings};
use crate::toolchain::Report;

/// The image.
pub fn challenge(cache: &Cache, report: Report<'_>) -> Result<Image> {
    report("building koinon-challenge (about 2 min the first time)");
    let program = build(&["koinon-challenge"])?.program("koinon-challenge")?;
    let mut files = vec![(Path::new("usr/bin/koinon-challenge").to_owned(), program.clone())];
    for library in libraries(&program)? {
        files.push((library.strip_prefix("/")?.to_owned(), library));
    }
    files.sort();
    let contents = files.iter().map(|(_, from)| fs::read(from)).collect::<Result<Vec<_>, _>>()?;
    let names: Vec<String> = files.iter().map(|(to, _)| to.display().to_string()).collect();
    let parts = names.iter().map(String::as_str).zip(contents.iter().map(Vec::as_slice));
    let key = Key::of(parts.chain([("recipe", include_bytes!("challenge.rs").as_slice())]));
    let settings = Settings {
        user: USER.into(),
        entrypoint: vec!["/usr/bin/koinon-challenge".into()],
        env: vec![
            "PATH=/usr/bin".into(),
            "HOME=/tmp".into(),
            // Without it the container toolkit mounts what `nvidia-smi` needs, and no libcuda.so.1.
            "NVIDIA_DRIVER_CAPABILITIES=compute,utility".into(),
        ],
        ..Settings::default()
    };
    Image::get_or_make(cache, "koinon-challenge", &key, &settings, |root| {
        report("building the image koinon-challenge");
        for (to, from) in &files {
            copy_program(from, &root.join(to))?;
        }
        add_system_files(root).context("adding accounts")
    })
}
