//! The engine of the tests: llama.cpp's server, from PyPI, on a Python from Debian packages.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{USER, add_system_files, copy_program};
use crate::cache::{self, Cache, Key};
use crate::command;
use crate::image::{Image, Settings};
use crate::python::Python;
use crate::toolchain::{Report, checkout, download_package};

/// What Python and the engine's library load, on top of the two Python packages whose names hold the version.
const LIBRARIES: &[&str] = &["libc6", "libgcc-s1", "libstdc++6", "libgomp1", "zlib1g", "libexpat1", "libffi8"];

/// The image.
pub fn llama_cpp(cache: &Cache, report: Report<'_>) -> Result<Image> {
    let folder = checkout().join("e2e/images/llama-cpp");
    let files = cache::contents(&folder, &[])?;
    let parts = files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()));
    let key = Key::of(parts.chain([("recipe", include_bytes!("llama.rs").as_slice())]));
    let settings = Settings {
        user: USER.into(),
        entrypoint: vec!["/usr/bin/python3".into(), "-B".into(), "/opt/serve.py".into()],
        env: vec![
            "PATH=/usr/bin".into(),
            "HOME=/tmp".into(),
            "PYTHONPATH=/opt/site".into(),
            "PYTHONUNBUFFERED=1".into(),
        ],
        ..Settings::default()
    };
    Image::get_or_make(cache, "llama-cpp", &key, &settings, |root| {
        report("building the image llama-cpp (about 1 min)");
        let version = python_version()?;
        let python = ["minimal", "stdlib"].map(|part| format!("lib{version}-{part}"));
        let interpreter = format!("{version}-minimal");
        for package in python.iter().map(String::as_str).chain([interpreter.as_str()]).chain(LIBRARIES.iter().copied())
        {
            unpack(&download_package(cache, package, report)?, root)?;
        }
        std::os::unix::fs::symlink(&version, root.join("usr/bin/python3"))?;
        add_system_files(root)?;
        Python::ensure(cache, report)?.install(&folder.join("requirements.txt"), &root.join("opt/site"))?;
        strip(&root.join("opt/site"))?;
        copy_program(&folder.join("serve.py"), &root.join("opt/serve.py"))
    })
}

/// The wheel's library comes with symbols for debugging: 106 MB, of which a node needs 26.
fn strip(site: &Path) -> Result<()> {
    let library = site.join("xllamacpp/xllamacpp.abi3.so");
    command::run(Command::new("strip").arg("--strip-unneeded").arg(&library)).map(drop)
}

/// `python3.11` or whichever this Debian has.
fn python_version() -> Result<String> {
    let depends = command::run(Command::new("apt-cache").args(["depends", "--important", "python3-minimal"]))?;
    let package = depends.lines().filter_map(|line| line.trim().split("Depends: ").nth(1));
    let found = package.filter_map(|name| name.strip_suffix("-minimal")).find(|name| name.starts_with("python3."));
    found.map(str::to_owned).context("apt does not know which Python python3-minimal stands for; try `apt-get update`")
}

/// Copies a package's files without its documentation. `/lib` becomes a link into `/usr`, as on every Debian.
fn unpack(package: &Path, root: &Path) -> Result<()> {
    for folder in ["lib", "lib64", "bin"] {
        let (link, real) = (root.join(folder), root.join("usr").join(folder));
        fs::create_dir_all(&real)?;
        if !link.is_symlink() {
            std::os::unix::fs::symlink(format!("usr/{folder}"), &link)?;
        }
    }
    for (from, to) in [
        ("lib", "usr/lib"),
        ("lib64", "usr/lib64"),
        ("usr/bin", "usr/bin"),
        ("usr/lib", "usr/lib"),
        ("usr/lib64", "usr/lib64"),
    ] {
        if package.join(from).is_dir() {
            let mut copy = Command::new("cp");
            command::run(copy.args(["--archive", "--no-target-directory"]).arg(package.join(from)).arg(root.join(to)))?;
        }
    }
    Ok(())
}
