//! `kubectl koinon`: found, join, propose, vote, and look at a cooperative from one member's cluster.
//!
//! Every command that signs works on a person's machine with a key file that no cluster ever holds, and can print
//! the signed resource (`-o yaml`) for those who apply from git instead of applying it.

mod access;
mod advice;
mod apikey;
mod archive;
mod audit;
mod audit_text;
mod ballot;
mod challenge;
mod change;
mod charter;
mod cluster;
mod completion;
mod confirm;
mod cordon;
mod digest;
mod doctor;
mod effect;
mod emergency;
mod evidence;
mod explain;
mod explain_said;
mod explain_vote;
#[cfg(test)]
mod fixture;
mod found;
mod gpus;
mod hearing;
mod inputs;
mod invite;
mod join;
mod keyfile;
mod keys;
mod leave;
mod moment;
mod output;
mod plan;
mod precheck;
mod proposal;
mod propose;
mod prospect;
mod reclaim;
mod say;
mod settings;
mod show;
mod utterance;
mod vote;

use clap::{CommandFactory as _, Parser, Subcommand};

/// Work with a Koinon cooperative: found it, join it, vote in it, see who offers what.
#[derive(Debug, Parser)]
#[command(name = "kubectl-koinon", bin_name = "kubectl koinon", version, max_term_width = 110)]
pub struct Cli {
    #[command(flatten)]
    access: access::Access,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Found(found::Args),
    Invite(invite::Args),
    Join(join::Args),
    Leave(leave::Args),
    Propose(propose::Args),
    Vote(vote::Args),
    Withdraw(ballot::Withdraw),
    Recuse(ballot::Recuse),
    Delegate(ballot::Delegate),
    Reply(hearing::ReplyArgs),
    Appeal(hearing::AppealArgs),
    Emergency(emergency::Args),
    Cosign(emergency::CoSignArgs),
    Emergencies(emergency::ListArgs),
    Charter(charter::Args),
    Explain(explain::Args),
    Audit(audit::Args),
    Archive(archive::Args),
    Plan(plan::Args),
    Digest(digest::Args),
    Members(show::MembersArgs),
    Offers(show::OffersArgs),
    Gpus(gpus::Args),
    Proposal(proposal::Args),
    Proposals(show::ProposalsArgs),
    Drain(reclaim::DrainArgs),
    Reclaim(reclaim::ReclaimArgs),
    Challenge(challenge::Args),
    Cordon(cordon::Args),
    Uncordon(cordon::UncordonArgs),
    Apikey(apikey::Args),
    Keys(keys::Args),
    Adopt(keys::AdoptArgs),
    Resume(keys::ResumeArgs),
    Doctor(doctor::Args),
    /// Set up completion in bash, zsh and fish: print a shell's script, and say how it is installed.
    #[command(after_help = completion::HELP)]
    Completion {
        /// The shell to complete for.
        shell: clap_complete::Shell,
    },
    /// Answer kubectl, which asks for completions of a plugin.
    #[command(hide = true)]
    Complete {
        /// The words so far.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
}

impl Command {
    /// Whether `--namespace` has no other meaning here than the release's namespace.
    fn is_about_the_release(&self) -> bool {
        match self {
            Self::Plan(_) => false,
            Self::Explain(args) => !args.is_about_a_job(),
            Self::Apikey(args) => !args.creates(),
            _ => true,
        }
    }
}

impl Cli {
    /// Runs the command to its end.
    ///
    /// # Errors
    /// Whatever kept the command from doing what it was asked, with the fix where one is known.
    pub async fn run(self) -> anyhow::Result<()> {
        let Self { access, command } = self;
        let access = if command.is_about_the_release() { access.about_the_release() } else { access };
        match command {
            Command::Found(args) => args.run(&access).await,
            Command::Invite(args) => args.run(&access).await,
            Command::Join(args) => args.run(&access).await,
            Command::Leave(args) => args.run(&access).await,
            Command::Propose(args) => args.run(&access).await,
            Command::Vote(args) => args.run(&access).await,
            Command::Withdraw(args) => args.run(&access).await,
            Command::Recuse(args) => args.run(&access).await,
            Command::Delegate(args) => args.run(&access).await,
            Command::Reply(args) => args.run(&access).await,
            Command::Appeal(args) => args.run(&access).await,
            Command::Emergency(args) => args.run(&access).await,
            Command::Cosign(args) => args.run(&access).await,
            Command::Emergencies(args) => args.run(&access).await,
            Command::Charter(args) => args.run(&access).await,
            Command::Explain(args) => args.run(&access).await,
            Command::Audit(args) => args.run(&access).await,
            Command::Archive(args) => args.run(&access).await,
            Command::Plan(args) => args.run(&access).await,
            Command::Digest(args) => args.run(),
            Command::Members(args) => args.run(&access).await,
            Command::Offers(args) => args.run(&access).await,
            Command::Gpus(args) => args.run(&access).await,
            Command::Proposal(args) => args.run(&access).await,
            Command::Proposals(args) => args.run(&access).await,
            Command::Drain(args) => args.run(&access).await,
            Command::Reclaim(args) => args.run(&access).await,
            Command::Challenge(args) => args.run(&access).await,
            Command::Cordon(args) => args.run(&access).await,
            Command::Uncordon(args) => args.run(&access).await,
            Command::Apikey(args) => args.run(&access).await,
            Command::Keys(args) => args.run(&access).await,
            Command::Adopt(args) => args.run(&access).await,
            Command::Resume(args) => args.run(&access).await,
            Command::Doctor(args) => args.run(&access).await,
            Command::Complete { words } => {
                print!("{}", completion::answer(Self::command(), &words));
                Ok(())
            }
            Command::Completion { shell } => {
                let mut command = Self::command();
                clap_complete::generate(shell, &mut command, "kubectl-koinon", &mut std::io::stdout());
                Ok(())
            }
        }
    }
}

/// An error with its causes in one line, of which an API server's refusal is what the API server said.
pub fn told(error: &anyhow::Error) -> String {
    let mut causes = Vec::new();
    for cause in error.chain() {
        // kube writes the whole answer behind its message, twice.
        if let Some(kube::Error::Api(status)) = cause.downcast_ref::<kube::Error>() {
            causes.push(status.message.clone());
            break;
        }
        causes.push(cause.to_string());
    }
    causes.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_of_every_command_is_defined_once() {
        Cli::command().debug_assert();
    }
    #[test]
    fn what_an_api_server_refuses_is_told_in_its_own_words_once() {
        use anyhow::Context as _;
        let status = serde_json::json!({"status": "Failure", "message": "jobs \"a\" not found", "reason": "NotFound",
            "code": 404});
        let refused = kube::Error::Api(Box::new(serde_json::from_value(status).unwrap()));
        let error = Err::<(), _>(refused).context("cannot read the job").unwrap_err();
        assert_eq!(told(&error), "cannot read the job: jobs \"a\" not found");
    }
}
