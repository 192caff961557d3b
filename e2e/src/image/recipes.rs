//! What is in each image.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{Image, Settings};
use crate::cache::{Cache, Key};
use crate::command;
use crate::toolchain::{Report, checkout, download_package};

/// The image whose container holds a pod's namespaces.
pub fn pause(cache: &Cache, report: Report<'_>) -> Result<Image> {
    let source = checkout().join("e2e/images/pause/pause.c");
    let key = Key::of([("source", fs::read(&source)?.as_slice())]);
    let settings = Settings { user: "65535:65535".into(), entrypoint: vec!["/pause".into()], ..Settings::default() };
    Image::get_or_make(cache, "pause", &key, &settings, |root| {
        report("building the image pause");
        let mut cc = Command::new("cc");
        cc.args(["-static", "-Os", "-s", "-o"]).arg(root.join("pause")).arg(&source);
        command::run(&mut cc).context("compiling pause; a static C library is needed (Debian: libc6-dev)").map(drop)
    })
}

/// A shell with an HTTP server and client, for tests that need a pod which answers and asks.
pub fn busybox(cache: &Cache, report: Report<'_>) -> Result<Image> {
    let package = download_package(cache, "busybox-static", report)?;
    let program = package.join("bin/busybox");
    let key = Key::of([("program", fs::read(&program)?.as_slice())]);
    let settings = Settings {
        user: "65532:65532".into(),
        entrypoint: vec!["/bin/sh".into()],
        env: vec!["PATH=/bin".into()],
        ..Settings::default()
    };
    Image::get_or_make(cache, "busybox", &key, &settings, |root| {
        report("building the image busybox");
        let bin = root.join("bin");
        fs::create_dir(&bin)?;
        copy_program(&program, &bin.join("busybox"))?;
        for applet in command::run(Command::new(&program).arg("--list"))?.lines().filter(|applet| *applet != "busybox")
        {
            std::os::unix::fs::symlink("busybox", bin.join(applet))?;
        }
        Ok(())
    })
}

/// Copies a file that everybody may run.
fn copy_program(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("copying {}", from.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).with_context(|| format!("protecting {}", to.display()))
}
