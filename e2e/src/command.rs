//! Running commands to their end, with errors that show what was run and what it said.

use std::ffi::OsStr;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, bail};

/// As much of a command's complaint as fits on a screen; the rest is in the log file.
const SHOWN_OUTPUT: usize = 4000;

/// The command line as a person would type it.
pub fn command_line(command: &Command) -> String {
    let mut line = quote(command.get_program());
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&quote(argument));
    }
    line
}

fn quote(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@,+%{}[]".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.into_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
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
    fn a_missing_program_is_named() {
        let error = words("koinon-no-such-program now").unwrap_err().to_string();
        assert!(error.contains("koinon-no-such-program now"), "{error}");
    }
}
