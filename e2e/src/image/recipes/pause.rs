//! The image whose container holds a pod's namespaces.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::cache::{Cache, Key};
use crate::command;
use crate::image::{Image, Settings};
use crate::toolchain::{Report, checkout};

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
