//! Shell completion: scripts for the program itself, and the answers that kubectl asks of a plugin.

use clap::{Arg, ArgAction, Command};

/// How it is installed. kubectl completes a plugin by asking a program `kubectl_complete-NAME`, and every shell that
/// kubectl completes in does so; the scripts of `completion SHELL` know the program's own name only.
pub const HELP: &str = "\
To complete `kubectl koinon <Tab>`, set up kubectl's own completion first
(kubectl completion --help), then put this program on the PATH:
  cd ~/.local/bin
  echo '#!/bin/sh' > kubectl_complete-koinon
  echo 'exec kubectl-koinon complete -- \"$@\"' >> kubectl_complete-koinon
  chmod +x kubectl_complete-koinon
To complete `kubectl-koinon <Tab>`, the program's own name:
  bash:  cd ~/.local/share/bash-completion/completions
         kubectl koinon completion bash > kubectl-koinon
  zsh:   kubectl koinon completion zsh > ~/.zfunc/_kubectl-koinon
         and in ~/.zshrc, before compinit: fpath+=~/.zfunc
  fish:  cd ~/.config/fish/completions
         kubectl koinon completion fish > kubectl-koinon.fish
Make the folder with mkdir -p if it is not there; open a new shell.";

/// No more than what was printed: kubectl's default would offer files too.
const NO_FILES: u8 = 4;
/// The shell offers files.
const FILES: u8 = 0;

/// What kubectl asks of a plugin: the words that may stand at the end of `words`, a line each, then how to go on.
pub fn answer(mut root: Command, words: &[String]) -> String {
    root.build();
    let (word, before) = words.split_last().map_or(("", &[][..]), |(word, before)| (word.as_str(), before));
    let (mut command, mut open, mut placed) = (&root, None, 0);
    for word in before {
        if open.take().is_some() {
            continue;
        }
        if let Some(flag) = flag_of(command, word) {
            open = (takes_value(flag) && !word.contains('=')).then_some(flag);
        } else if let Some(below) = command.find_subcommand(word) {
            (command, placed) = (below, 0);
        } else {
            placed += 1;
        }
    }
    let offered = match open {
        Some(flag) => values(flag),
        None if word.starts_with('-') => flags(command),
        None => {
            let commands = command.get_subcommands().filter(|command| !command.is_hide_set());
            let named = commands.map(|command| (command.get_name().to_owned(), about(command.get_about())));
            let here = command.get_positionals().nth(placed).map(values).unwrap_or_default();
            named.chain(here).collect()
        }
    };
    let mut text = String::new();
    for (offer, about) in offered.iter().filter(|(offer, _)| offer.starts_with(word)) {
        text.push_str(&format!("{offer}\t{about}\n"));
    }
    // Where a file may stand beside a subcommand both are offered.
    let placed = command.get_positionals().nth(placed).filter(|_| open.is_none() && !word.starts_with('-'));
    let anything = placed.is_some_and(|arg| values(arg).is_empty());
    let goes_on = if offered.is_empty() || anything { FILES } else { NO_FILES };
    text + &format!(":{goes_on}\n")
}

fn flag_of<'a>(command: &'a Command, word: &str) -> Option<&'a Arg> {
    let name = word.split('=').next().unwrap_or_default();
    command.get_opts().chain(command.get_arguments().filter(|arg| !arg.is_positional())).find(|arg| {
        let long = arg.get_long().is_some_and(|long| name.strip_prefix("--") == Some(long));
        long || arg.get_short().is_some_and(|short| name.strip_prefix('-') == Some(short.to_string().as_str()))
    })
}

fn takes_value(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Set | ArgAction::Append)
}

fn flags(command: &Command) -> Vec<(String, String)> {
    let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
    shown.filter_map(|arg| Some((format!("--{}", arg.get_long()?), about(arg.get_help())))).collect()
}

fn values(arg: &Arg) -> Vec<(String, String)> {
    let possible = arg.get_possible_values();
    possible.iter().map(|value| (value.get_name().to_owned(), about(value.get_help()))).collect()
}

/// The first line: the protocol has one line a word.
fn about(text: Option<&clap::builder::StyledStr>) -> String {
    text.map(ToString::to_string).unwrap_or_default().lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn offered(words: &[&str]) -> (Vec<String>, String) {
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        let text = answer(crate::Cli::command(), &words);
        let mut lines: Vec<&str> = text.lines().collect();
        let goes_on = lines.pop().unwrap().to_owned();
        (lines.iter().map(|line| line.split('\t').next().unwrap().to_owned()).collect(), goes_on)
    }

    #[test]
    fn a_beginning_is_completed_to_the_subcommands_that_begin_so() {
        assert_eq!(offered(&["pro"]), (vec!["propose".into(), "proposal".into(), "proposals".into()], ":4".into()));
        assert_eq!(offered(&["propose", "add-e"]).0, ["add-engine"]);
        assert_eq!(offered(&["propose", "susp"]).0, ["suspend"]);
        assert_eq!((offered(&["drai"]).0, offered(&["recl"]).0), (vec!["drain".into()], vec!["reclaim".into()]));
        assert_eq!(offered(&["gpus", "res"]).0, ["reset-breaker"]);
        assert_eq!(
            (offered(&["gpus", "cl"]).0, offered(&["gpus", "clear", "--rea"]).0),
            (vec!["clear".into()], vec!["--reason".into()])
        );
        assert!(!offered(&[""]).0.contains(&"complete".to_owned()), "what is not for people is not offered");
    }

    #[test]
    fn flags_are_those_of_the_subcommand_with_the_shared_ones() {
        let (flags, _) = offered(&["propose", "--"]);
        for flag in ["--from", "--co-sign", "--kubeconfig", "--help"] {
            assert!(flags.contains(&flag.to_owned()), "{flag} is not in {flags:?}");
        }
        assert_eq!(offered(&["propose", "--sig"]).0, ["--signed"]);
        assert_eq!(offered(&["propose", "--dry"]).0, ["--dry-run"]);
        assert_eq!(offered(&["propose", "change-charter", "--s"]).0, ["--set"]);
        assert_eq!(offered(&["drain", "n1", "--u"]).0, ["--undo"]);
        assert_eq!(offered(&["reclaim", "hall-1", "--class", "h100-80", "--g"]).0, ["--gpus"]);
    }

    #[test]
    fn the_values_of_a_flag_and_of_an_argument_are_offered_where_they_are_known() {
        assert_eq!(offered(&["propose", "--vote", ""]).0, ["yes", "no", "abstain", "veto"]);
        assert_eq!(offered(&["vote", "p-1", "ve"]).0, ["veto"]);
        assert_eq!(offered(&["proposal", "p-1", "-o", ""]).0, ["json", "yaml"]);
        assert_eq!(offered(&["-n", "acme", "completion", "z"]).0, ["zsh"]);
        assert_eq!(offered(&["emergency", "stop-m"]).0, ["stop-member"]);
        let causes = offered(&["emergency", "stop-member", "cork", "--cause", ""]).0;
        assert_eq!(causes, ["key-compromise", "safety", "fraud", "legal"]);
        assert_eq!(offered(&["keys", "ro"]).0, ["rotate"]);
        let (commands, goes_on) = offered(&["audit", ""]);
        assert!(commands.contains(&"export".to_owned()) && goes_on == ":0", "a file or a subcommand: {commands:?}");
        let files = offered(&["plan", "-f", ""]);
        assert_eq!(files, (vec![], ":0".into()), "the shell offers files");
    }
}
