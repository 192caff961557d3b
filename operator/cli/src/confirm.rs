//! A question before something is signed.

use std::io::{IsTerminal as _, Write as _};

use anyhow::bail;

/// Asks at a terminal; where nobody sits, as in a script, what was typed is what is meant.
///
/// # Errors
/// Where the answer is not yes.
pub fn confirm(question: &str, yes: bool) -> anyhow::Result<()> {
    let stdin = std::io::stdin();
    if yes || !stdin.is_terminal() {
        return Ok(());
    }
    let mut answer = String::new();
    eprint!("{question} [y/N] ");
    std::io::stderr().flush()?;
    stdin.read_line(&mut answer)?;
    if agrees(&answer) { Ok(()) } else { bail!("nothing was signed and nothing was applied") }
}

fn agrees(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_yes_is_one() {
        assert!(agrees("y\n") && agrees(" YES \n"));
        assert!(!agrees("\n") && !agrees("n\n") && !agrees("yesterday\n") && !agrees(""));
    }
}
