//! A shell with an HTTP server and client.

use std::fs;
use std::process::Command;

use anyhow::Result;

use super::{USER, copy_program};
use crate::cache::{Cache, Key};
use crate::command;
use crate::image::{Image, Settings};
use crate::toolchain::{Report, download_package};

/// A shell with an HTTP server and client, for tests that need a pod which answers and asks.
pub fn busybox(cache: &Cache, report: Report<'_>) -> Result<Image> {
    let package = download_package(cache, "busybox-static", report)?;
    let program = package.join("bin/busybox");
    let key = Key::of([("program", fs::read(&program)?.as_slice())]);
    let settings = Settings {
        user: USER.into(),
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
