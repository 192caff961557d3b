//! `kubectl koinon keys rotate`: this member's next set of governance keys.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use koinon_core::body::Body;
use koinon_core::body::keys::KeyUpdate;
use koinon_core::dsse::{SeedSigner, Signer as _};
use koinon_core::ids::{MemberId, PublicKey};
use koinon_core::policy::{KeySet, State};

use crate::access::Access;
use crate::ballot::complete_rules;
use crate::cluster::Cluster;
use crate::confirm::confirm;
use crate::keyfile::{self, Protection};
use crate::output::Output;
use crate::say;

/// Replace this person's governance key with a new one.
///
/// Makes the new key beside the old one, as governance.next.pem, signs the update with both and has the operator anchor it.
/// From that entry on the new key speaks for the member, and nothing else does; votes that were cast before stay. Then the
/// files change places: governance.pem is the new key, and the old one is kept under its own name. Keys of this member's
/// other people stay as they are. Run again after an interruption: it goes on where it was.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Sign with the recovery keys: the old key is lost, or was revoked.
    #[arg(long)]
    recovery: bool,
    /// The recovery key files that sign, more than half of all; default: recovery.pem of the keys' directory.
    #[arg(long, value_name = "FILE", requires = "recovery")]
    recovery_key: Vec<PathBuf>,
    /// A key that is dropped too, or with --recovery instead of the lost one.
    #[arg(long, value_name = "KEY")]
    drop: Vec<PublicKey>,
    /// Write the new key without a passphrase, for machines that protect the file itself.
    #[arg(long)]
    no_passphrase: bool,
    /// For how long to wait until the operator has anchored the update, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    wait: u64,
    /// Sign without asking.
    #[arg(short = 'y', long)]
    yes: bool,
    /// Print the signed Statement instead of applying it; run the command again once it is anchored.
    #[arg(short, long, value_enum)]
    output: Option<Output>,
}

/// The two files whose places change.
struct Files {
    present: PathBuf,
    next: PathBuf,
}

impl Args {
    /// Makes, submits and puts in place.
    ///
    /// # Errors
    /// Where a file or the cluster says no, with what to do.
    pub async fn run(self, access: &Access) -> anyhow::Result<()> {
        let Self { recovery, recovery_key, drop, no_passphrase, wait, yes, output } = self;
        let files = Files { present: access.governance_key()?, next: access.keys_dir()?.join("governance.next.pem") };
        let cluster = Cluster::connect(access).await?;
        let membership = cluster.membership().await?;
        let commons = cluster.commons(&membership).await?;
        let state = commons.state();
        complete_rules(state)?;
        let set = in_force(state, &membership.member)?;
        if files.next.exists() && set.governance.contains(&keyfile::read(&files.next)?.public_key()) {
            println!("the update is in force already, as set {} of {}'s keys", set.number, membership.member);
            return files.change_places();
        }
        let old = if recovery { None } else { Some(keyfile::read(&files.present)?) };
        let old_key = old.as_ref().map(SeedSigner::public_key);
        if let Some(key) = old_key.filter(|key| !set.governance.contains(key)) {
            bail!(
                "{key} ({}) is no governance key of {} that is in force: give another directory with --keys DIR, or sign with --recovery",
                files.present.display(),
                membership.member
            );
        }
        if let Some(key) = drop.iter().find(|key| !set.governance.contains(*key)) {
            bail!("{key} is no governance key of {} that is in force: see kubectl koinon keys show", membership.member);
        }
        let protection = if no_passphrase { Protection::Plain } else { Protection::Passphrase };
        let new =
            if files.next.exists() { keyfile::read(&files.next)? } else { keyfile::create(&files.next, protection)? };
        let update = next_set(set, old_key, &drop, new.public_key());
        let shown = diff(set, &update);
        if output.is_some() {
            eprint!("{shown}")
        } else {
            print!("{shown}")
        }
        confirm("Sign this as the next set of keys?", yes)?;
        let mut signers = match old {
            Some(old) => vec![old],
            None => super::recovery_signers(access, &recovery_key)?,
        };
        signers.push(new);
        let statement = say::signed(&membership, Body::KeyUpdate(update), &signers.iter().collect::<Vec<_>>())?;
        say::check(state, &membership, &statement)?;
        if !say::submit(&cluster, &statement, output).await? {
            eprintln!("once it is applied and anchored, put the new key in place: kubectl koinon keys rotate");
            return Ok(());
        }
        println!("signed by {}", statement.signers().map(ToString::to_string).collect::<Vec<_>>().join(" and "));
        match say::settled(&cluster, &statement, Duration::from_secs(wait)).await? {
            Some(how) => {
                println!("in force: {how}");
                files.change_places()
            }
            None => {
                println!(
                    "the operator has not anchored it in {wait} s; the old key counts until then. Look with\n  \
                     kubectl koinon explain statement/{}\nand put the new key in place with: kubectl koinon keys rotate",
                    statement.id()
                );
                Ok(())
            }
        }
    }
}

/// The keys with which `member` speaks now.
pub(super) fn in_force<'a>(state: &'a State, member: &MemberId) -> anyhow::Result<&'a KeySet> {
    state.key_set(member).with_context(|| format!("{member} is no member here: see kubectl koinon members"))
}

/// The set after `set`: the new key in the old one's place, without those that are dropped.
fn next_set(set: &KeySet, old: Option<PublicKey>, drop: &[PublicKey], new: PublicKey) -> KeyUpdate {
    let kept = set.governance.iter().filter(|key| Some(**key) != old && !drop.contains(key));
    let governance = kept.copied().chain((!set.governance.contains(&new)).then_some(new)).collect();
    KeyUpdate { number: set.number.saturating_add(1), governance }
}

/// What an update changes.
fn diff(set: &KeySet, update: &KeyUpdate) -> String {
    let mut text = format!("governance keys, set {} after set {}:\n", update.number, set.number);
    for key in &set.governance {
        let mark = if update.governance.contains(key) { ' ' } else { '-' };
        text.push_str(&format!("{mark} {key}\n"));
    }
    for key in update.governance.iter().filter(|key| !set.governance.contains(*key)) {
        text.push_str(&format!("+ {key}\n"));
    }
    text
}

impl Files {
    fn change_places(&self) -> anyhow::Result<()> {
        if self.present.exists() {
            let old = self.kept()?;
            rename(&self.present, &old)?;
            println!("the old key is {}; nothing needs it any more", old.display());
        }
        rename(&self.next, &self.present)?;
        println!("the new key is {}", self.present.display());
        Ok(())
    }

    /// A name for the old key that no other file has: whose passphrase is forgotten must not keep the new one from its place.
    fn kept(&self) -> anyhow::Result<PathBuf> {
        let name = |n: u32| self.present.with_file_name(format!("governance.old-{n}.pem"));
        let free = (1..1000).map(name).find(|path| !path.exists());
        free.with_context(|| format!("too many old keys beside {}: move them away", self.present.display()))
    }
}

fn rename(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::rename(from, to).with_context(|| format!("cannot rename {} to {}", from.display(), to.display()))
}

#[cfg(test)]
#[path = "rotate_tests.rs"]
mod tests;
