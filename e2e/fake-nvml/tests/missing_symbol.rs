//! A copy of the library without one of its symbols is what a client of another version meets.

#![allow(unsafe_code)] // loading a library.
#![allow(clippy::unwrap_used)] // clippy knows tests by their attribute, not their helpers.

mod common;

use std::os::raw::c_void;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{built, library};
use fake_nvml::{Device, MissingError, SYMBOLS, Scenario, without_symbol};
use libloading::Library;

fn found(library: &Path) -> Vec<&'static str> {
    // SAFETY: our own library, whose loading runs no code of ours.
    let loaded = unsafe { Library::new(library) }.unwrap();
    // SAFETY: the address is never called.
    let there = |symbol: &str| unsafe { loaded.get::<*const c_void>(symbol.as_bytes()) }.is_ok();
    SYMBOLS.iter().copied().filter(|symbol| there(symbol)).collect()
}

fn asked(library: &Path, folder: &Path) -> Vec<String> {
    let scenario = folder.join("scenario.json");
    std::fs::write(&scenario, serde_json::to_string(&Scenario::known(vec![Device::h100(1)])).unwrap()).unwrap();
    let probe: PathBuf = built().join("examples/probe");
    let output = Command::new(probe).arg(library).env("FAKE_NVML_SCENARIO", scenario).output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn each_symbol_in_turn_can_be_missing_and_all_others_are_there() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(found(&library()), SYMBOLS);
    for symbol in SYMBOLS {
        // A name of its own, because the dynamic linker opens the same file only once.
        let copy = folder.path().join(format!("{symbol}.so"));
        without_symbol(&library(), symbol, &copy).unwrap();
        let expected: Vec<&str> = SYMBOLS.iter().copied().filter(|other| other != symbol).collect();
        assert_eq!(found(&copy), expected, "without {symbol}");
        std::fs::remove_file(copy).unwrap();
    }
}

#[test]
fn a_client_is_told_of_the_missing_symbol_and_of_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("libnvidia-ml.so.1");
    without_symbol(&library(), "nvmlDeviceGetMemoryInfo_v2", &copy).unwrap();
    let lines = asked(&copy, folder.path());
    assert!(lines.contains(&"0 memory: absent".to_owned()), "{lines:#?}");
    assert!(lines.contains(&"0 mig: 0/0".to_owned()), "{lines:#?}");
    without_symbol(&library(), "nvmlInit_v2", &copy).unwrap();
    assert_eq!(asked(&copy, folder.path()), ["init: absent"]);
}

#[test]
fn what_cannot_be_hidden_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let into = folder.path().join("copy.so");
    let unknown = without_symbol(&library(), "nvmlDeviceReset", &into).unwrap_err();
    assert!(matches!(&unknown, MissingError::NotExported(symbol) if symbol == "nvmlDeviceReset"), "{unknown}");
    let absent = without_symbol(Path::new("/nonexistent.so"), "nvmlInit_v2", &into).unwrap_err();
    assert!(absent.to_string().contains("/nonexistent.so"), "{absent}");
    let text = folder.path().join("text");
    std::fs::write(&text, "\0nvmlInit_v2\0").unwrap();
    let no_library = without_symbol(&text, "nvmlInit_v2", &into).unwrap_err();
    assert!(matches!(no_library, MissingError::NoLibrary { .. }), "{no_library}");
    assert!(!into.exists());
}
