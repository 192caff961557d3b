//! The table as a file.

use std::path::{Path, PathBuf};

use crate::cell::Line;

const HEAD: &str = "# Faults and what the agent makes of them

Written by `KOINON_WRITE=1 cargo test -p koinon-agent --test fault_table`; that test fails while this file says anything else.

Each line is one fault of one device, the *target*, or of the node. `start`: the fault is there before the agent's first
survey. `steady`: it strikes after three sound surveys. `in allocation`: so too, while a pod holds the target. `during another
fault`: so too, while another device is lost or has a setting that waits. Of each device stand its state with reasons, what
its owner should do, what becomes of foreign work on it, and whether it is shareable or why not. `then` is the target once
the fault has gone. In every line the agent lives on, its status is vouched for, a survey asks a device at most 60 times, and
no device is shareable that is not healthy, free and read just now.
";

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fault_table/TABLE.md")
}

/// The whole file.
pub fn text(lines: &[Line]) -> String {
    let ok = lines.iter().filter(|line| line.is_ok()).count();
    let mut text = format!("{HEAD}\n{} lines, {ok} as expected.\n\n", lines.len());
    text += "| fault | phase | observed | expected | ok |\n|---|---|---|---|---|\n";
    for line in lines {
        let Line { fault, phase, observed, expected, .. } = line;
        // What is as expected need not be said twice.
        let expected = if observed == expected { "the same" } else { expected };
        let ok = if line.is_ok() { "yes" } else { "NO" };
        text += &format!("| {fault} | {phase} | {observed} | {expected} | {ok} |\n");
    }
    text
}

/// Writes the file, or holds it against what was found.
pub fn hold(text: &str) {
    let path = path();
    if std::env::var_os("KOINON_WRITE").is_some_and(|write| write == "1") {
        std::fs::write(&path, text).unwrap();
        return;
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    let differing = committed.lines().zip(text.lines()).find(|(one, other)| one != other);
    assert!(
        committed == text,
        "{} is out of date, first in {differing:?}; write it with KOINON_WRITE=1 and commit it",
        path.display()
    );
}
