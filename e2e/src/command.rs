//! Running commands to their end, with errors that show what was run and what it said.

use std::ffi::OsStr;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, bail};

/// As much of a command's complaint as fits on a screen; the rest is in the log file.
const SHOWN_OUTPUT: usize = 4000;

/// The end of the script with which a process enters its home before it becomes the program that was asked for.
pub const BECOME: &str = "exec \"$@\"";

/// The command line as a person would type it: without the way into a namespace.
pub fn command_line(command: &Command) -> String {
    let words: Vec<&OsStr> = std::iter::once(command.get_program()).chain(command.get_args()).collect();
    let entered = words.get(2).is_some_and(|script| script.to_string_lossy().ends_with(BECOME));
    let mut shown = if entered { &words[4.min(words.len())..] } else { &words[..] };
    if entered && shown.first().is_some_and(|word| *word == "nsenter") {
        let end = shown.iter().position(|word| *word == "--").unwrap_or(0);
        shown = &shown[end + 1..];
    }
    shown.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ")
}

fn quote(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@,+%{}[]".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Runs to the end and returns standard output; a failure shows the command line and what it wrote.
pub fn run(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    if !output.status.success() {
        bail!(
            "`{}` failed ({}):\n{}",
            command_line(command),
            output.status,
            tail(&[output.stderr.as_slice(), output.stdout.as_slice()].concat())
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs to the end whatever the exit status; fails only if the program cannot be started.
pub fn output(command: &mut Command) -> Result<Output> {
    command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting `{}`; is it installed?", command_line(command)))
}

/// Runs a line of words split at blanks, for commands without blanks in their arguments.
pub fn words(line: &str) -> Result<String> {
    let mut words = line.split_whitespace();
    let program = words.next().context("an empty command line")?;
    run(Command::new(program).args(words))
}

fn tail(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim();
    let mut from = text.len().saturating_sub(SHOWN_OUTPUT);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    text[from..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_shows_the_command_and_its_complaint() {
        let error = run(Command::new("sh").args(["-c", "echo no such wire >&2; exit 3"])).unwrap_err().to_string();
        assert!(error.contains("sh -c 'echo no such wire >&2; exit 3'"), "{error}");
        assert!(error.contains("no such wire"), "{error}");
        assert!(error.contains("exit status: 3"), "{error}");
    }

    #[test]
    fn the_way_into_a_namespace_is_not_shown() {
        let mut command = Command::new("/bin/sh");
        command.args([
            "-c",
            &format!("echo $$ > /x && {BECOME}"),
            "sh",
            "nsenter",
            "--net=/run/netns/a",
            "--",
            "ip",
            "link",
        ]);
        assert_eq!(command_line(&command), "ip link");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = words("koinon-no-such-program now").unwrap_err().to_string();
        assert!(error.contains("koinon-no-such-program now"), "{error}");
    }
}
