//! What `kubectl koinon` says, and how it ends: a refusal is as much of an answer as a table.

use std::process::Command;

use crate::command;
use anyhow::{Context as _, Result, ensure};

use crate::ground::Ground;

/// What a command printed, and whether it did what it was asked.
pub struct Said {
    /// The exit status is 0.
    pub done: bool,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// Runs `kubectl koinon …` as the owner of `member`, shows it, and takes whatever it says.
pub async fn said(ground: &Ground, member: &str, args: &[&str]) -> Result<Said> {
    run(ground.stage.koinon(member, args)?, true).await
}

/// The same of what is asked again and again until it is so.
pub async fn unshown(ground: &Ground, member: &str, args: &[&str]) -> Result<Said> {
    run(ground.stage.koinon(member, args)?, false).await
}

async fn run(mut shell_command: Command, show: bool) -> Result<Said> {
    let (line, output) = tokio::task::spawn_blocking(move || {
        let line = command::command_line(&shell_command);
        command::output(&mut shell_command).map(|output| (line, output))
    })
    .await??;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = Said { done: output.status.success(), out: text(&output.stdout), err: text(&output.stderr) };
    if show {
        println!("  $ {line}");
        said.out.lines().chain(said.err.lines()).for_each(|line| println!("    {line}"));
    }
    Ok(said)
}

/// Runs a command that has to be refused, and returns its words.
pub async fn refused(ground: &Ground, member: &str, args: &[&str], says: &str) -> Result<String> {
    let said = said(ground, member, args).await?;
    ensure!(!said.done, "{} was done at {member}: {}", args.join(" "), said.out);
    ensure!(said.err.contains(says), "{} at {member} should say {says}, it says: {}", args.join(" "), said.err);
    Ok(said.err)
}

/// The rows of a table below its heading: cells stand at least three blanks apart.
pub fn rows(table: &str) -> Vec<Vec<&str>> {
    let lines = table.lines().skip(1);
    lines.map(cells).filter(|cells| !cells.is_empty()).collect()
}

fn cells(line: &str) -> Vec<&str> {
    line.split("   ").map(str::trim).filter(|cell| !cell.is_empty()).collect()
}

/// One line of the doctor: how it stands, what was found, and what to do.
#[derive(Debug, PartialEq, Eq)]
pub struct Check {
    /// `ok`, `note`, `?` or `BAD`.
    pub mark: String,
    /// What was found.
    pub found: String,
    /// What to do; empty where nothing is.
    pub fix: String,
}

/// What the doctor says of one thing.
pub fn check(said: &Said, what: &str) -> Result<Check> {
    let rows = rows(&said.out);
    let at = rows.iter().position(|row| row.get(1) == Some(&what));
    let at = at.with_context(|| format!("the doctor does not name {what}:\n{}", said.out))?;
    let fix = rows.get(at + 1).and_then(|row| row.first()).and_then(|cell| cell.strip_prefix("-> "));
    let cell = |n: usize| rows[at].get(n).map(|&cell| cell.to_owned()).unwrap_or_default();
    Ok(Check { mark: cell(0), found: cell(2), fix: fix.unwrap_or_default().to_owned() })
}
