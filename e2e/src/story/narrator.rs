//! Telling a story on a terminal: numbered steps, the commands as a person would type them, and what they printed.

use std::ffi::OsStr;
use std::fmt;
use std::future::Future;
use std::io::{IsTerminal as _, Write};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::command;
use crate::datacenter::{Datacenter, run_blocking};
use crate::wait::{Poll, wait_until};

/// Prints to one place, with the time since the story began.
pub struct Narrator {
    started: Instant,
    told: Mutex<Told>,
    colours: bool,
}

struct Told {
    out: Box<dyn Write + Send>,
    step: usize,
}

impl fmt::Debug for Narrator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Narrator").field("started", &self.started).finish_non_exhaustive()
    }
}

impl Narrator {
    /// A narrator on standard output.
    pub fn on_stdout() -> Self {
        let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { started: Instant::now(), told: Mutex::new(Told { out: Box::new(std::io::stdout()), step: 0 }), colours }
    }

    /// A narrator that writes somewhere else, without colours.
    pub fn to(out: impl Write + Send + 'static) -> Self {
        Self { started: Instant::now(), told: Mutex::new(Told { out: Box::new(out), step: 0 }), colours: false }
    }

    /// Time since the story began.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// How many steps were begun.
    pub fn steps(&self) -> usize {
        self.told.lock().map_or(0, |told| told.step)
    }

    /// Begins the next numbered step.
    pub fn step(&self, title: &str) {
        let number = {
            let Ok(mut told) = self.told.lock() else { return };
            told.step += 1;
            told.step
        };
        self.line("");
        let heading = format!("[{:>4} s] {number}. {title}", self.elapsed().as_secs());
        self.line(&self.painted("1", &heading));
    }

    /// Says something within a step.
    pub fn say(&self, text: &str) {
        for line in text.lines() {
            self.line(&format!("         {line}"));
        }
    }

    /// Says that something was observed which the step promised.
    pub fn observed(&self, what: &str) {
        self.line(&format!("       {} {what}", self.painted("32", "✓")));
    }

    /// Runs a command, prints it as a person at `place` would type it, and prints what it printed. Fails if it fails.
    pub async fn run(&self, place: &str, shell_command: Command) -> Result<String> {
        self.line(&format!("  {}", self.painted("36", &format!("{place} $ {}", typed(&shell_command)))));
        let printed = run_blocking(shell_command).await?;
        self.show(&printed);
        Ok(printed)
    }

    /// Runs `kubectl` in a datacenter and shows both.
    pub async fn kubectl<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(
        &self,
        datacenter: &Datacenter,
        args: I,
    ) -> Result<String> {
        self.run(datacenter.name(), datacenter.kubectl_command(args)).await
    }

    /// Runs `helm` in a datacenter and shows both.
    pub async fn helm<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(
        &self,
        datacenter: &Datacenter,
        args: I,
    ) -> Result<String> {
        self.run(datacenter.name(), datacenter.helm_command(args)).await
    }

    /// Prints what something answered, set apart from the story.
    pub fn show(&self, text: &str) {
        for line in text.trim_end().lines() {
            self.line(&format!("    {line}"));
        }
    }

    /// Waits, saying for what, and then how long it took; fails naming what was last seen.
    pub async fn wait_until<T, F, Fut>(&self, what: &str, timeout: Duration, look: F) -> Result<T>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Poll<T>>,
    {
        let began = Instant::now();
        self.say(&format!("waiting for {what} (at most {} s)", timeout.as_secs()));
        let seen = wait_until(what, timeout, look).await.context("this step of the story was not observed")?;
        self.observed(&format!("{what}, after {:.1} s", began.elapsed().as_secs_f32()));
        Ok(seen)
    }

    fn painted(&self, colour: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn line(&self, line: &str) {
        if let Ok(mut told) = self.told.lock() {
            // A closed pipe is no reason to leave clusters standing half way.
            let _ = writeln!(told.out, "{line}").and_then(|()| told.out.flush());
        }
    }
}

/// The command as typed by somebody whose `PATH` and `KUBECONFIG` are set.
fn typed(shell_command: &Command) -> String {
    let line = command::command_line(shell_command);
    let mut words: Vec<&str> = line.split(' ').collect();
    if let Some(program) = words.first_mut() {
        *program = program.rsplit('/').next().unwrap_or(program);
    }
    if let Some(at) = words.iter().position(|word| *word == "--kubeconfig") {
        words.drain(at..(at + 2).min(words.len()));
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_step_shows_the_command_and_its_answer() {
        let page = Page::default();
        let narrator = Narrator::to(page.clone());
        narrator.step("somebody looks");
        let mut command = Command::new("/bin/echo");
        command.args(["--kubeconfig", "/somewhere/admin", "get", "members"]);
        narrator.run("aarhus", command).await.unwrap();
        let text = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
        assert!(text.contains("1. somebody looks"), "{text}");
        assert!(text.contains("aarhus $ echo get members\n"), "{text}");
        assert!(text.contains("    --kubeconfig /somewhere/admin get members\n"), "{text}");
    }

    #[tokio::test]
    async fn what_was_not_observed_fails_the_story() {
        let narrator = Narrator::to(std::io::sink());
        let error = narrator
            .wait_until("three members", Duration::ZERO, || async { Poll::<()>::not_yet("two") })
            .await
            .unwrap_err();
        assert!(format!("{error:#}").contains("three members; last seen: two"), "{error:#}");
    }
}
