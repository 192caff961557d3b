//! `kubectl koinon archive`: what a checkpoint has settled leaves the cluster for a file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use clap::Subcommand;
use koinon_api::{Statement, names};
use koinon_core::audit::{Line, MAX_LINE, export};
use koinon_core::founding::Founding;
use koinon_core::ids::{PublicKey, StatementId};
use koinon_core::log::{Limits, Settled};
use koinon_core::policy::Commons;
use koinon_core::statement::Statement as Signed;
use kube::api::{DeleteParams, PostParams};

use crate::access::Access;
use crate::cluster::{Cluster, Membership, lacks, now, to_api};
use crate::confirm::confirm;

/// How it is used.
const EXAMPLES: &str = "\
Example, after a checkpoint was voted (kubectl koinon propose checkpoint):
  kubectl koinon archive 2026.jsonl --dry-run
  kubectl koinon archive 2026.jsonl
  kubectl koinon audit 2026.jsonl
The next archive takes the one before along, so that each is a whole history:
  kubectl koinon archive 2027.jsonl --with 2026.jsonl
Members that join later read what is in no cluster any more from nobody: keep a
member that archives nothing, or put it back (kubectl koinon archive restore).";

/// Move log entries that a checkpoint has settled out of the cluster into a file.
///
/// The file is a whole history up to now and can be audited anywhere. Only then are those entries removed from the cluster that
/// the operator has let go of, except of the last settled day.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    /// The file to write; it must not exist.
    #[arg(required = true, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Earlier archives, where entries were moved before.
    #[arg(long = "with", value_name = "FILE")]
    earlier: Vec<PathBuf>,
    /// Say what would be moved and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Put the entries of an archive that the cluster lacks back into it.
    Restore {
        /// The archive.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Say what would be put back and change nothing.
        #[arg(long)]
        dry_run: bool,
    },
}

impl Args {
    pub async fn run(self, access: &Access) -> anyhow::Result<()> {
        match (self.command, &self.file) {
            (Some(Command::Restore { file, dry_run }), _) => restore(access, &file, dry_run).await,
            (None, Some(file)) => archive(access, file, &self.earlier, self.dry_run, self.yes).await,
            (None, None) => bail!("name the file to write"),
        }
    }
}

/// Everything that the cluster and earlier archives hold together.
///
/// # Errors
/// Where they are not a whole history.
pub async fn whole(cluster: &Cluster, membership: &Membership, earlier: &[PathBuf]) -> anyhow::Result<Commons> {
    let founding = cluster.founding(membership).await?;
    let mut entries = Vec::new();
    for path in earlier {
        entries.extend(read(path)?);
    }
    entries.extend(cluster.entries().await?.into_iter().map(|(_, entry)| entry));
    assemble(founding, entries, cluster.settled().await?.as_ref())
}

fn assemble(founding: Founding, entries: Vec<Signed>, settled: Option<&Settled>) -> anyhow::Result<Commons> {
    let entries: BTreeMap<StatementId, Signed> = entries.into_iter().map(|entry| (entry.id(), entry)).collect();
    // In the order of their positions, so that none has to wait for the one before it.
    let mut entries: Vec<Signed> = entries.into_values().collect();
    entries.sort_by_key(Signed::log_seq);
    let (commons, _) = Commons::load(founding, Limits::NONE, entries);
    ensure!(
        !settled.is_some_and(|settled| lacks(&commons, settled)),
        "entries were moved to an archive before: name every one that there is, --with FILE"
    );
    Ok(commons)
}

async fn archive(access: &Access, path: &Path, earlier: &[PathBuf], dry_run: bool, yes: bool) -> anyhow::Result<()> {
    let cluster = Cluster::connect(access).await?;
    let membership = cluster.membership().await?;
    let noted = cluster.settled().await?.context(
        "nothing is settled: a checkpoint must be in force (kubectl koinon propose checkpoint) and the operator have read it",
    )?;
    let commons = whole(&cluster, &membership, earlier).await?;
    let moved = movable(&commons, &noted)?;
    let stored: Vec<(String, StatementId)> =
        cluster.entries().await?.into_iter().map(|(name, entry)| (name, entry.id())).collect();
    let going: Vec<&String> = stored.iter().filter(|(_, id)| moved.contains(id)).map(|(name, _)| name).collect();
    println!("{} of {} entries can leave the cluster", going.len(), stored.len());
    if dry_run || going.is_empty() {
        return Ok(());
    }
    write(&commons, path)?;
    let written: BTreeSet<StatementId> = read(path)?.iter().map(Signed::id).collect();
    ensure!(moved.is_subset(&written), "{} lacks entries that it should hold: nothing was removed", path.display());
    println!("wrote {} with {} entries", path.display(), written.len());
    confirm(&format!("remove {} entries from the cluster?", going.len()), yes)?;
    let api = cluster.api::<Statement>();
    for (done, name) in going.iter().enumerate() {
        match api.delete(name, &DeleteParams::default()).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => {
                return Err(error).with_context(|| {
                    format!("{done} were removed, Statement {name} was not: run it again with another file")
                });
            }
        }
        if (done + 1) % 1000 == 0 {
            eprintln!("{} of {} removed", done + 1, going.len());
        }
    }
    println!("{} entries were removed; keep {}: an audit needs it", going.len(), path.display());
    Ok(())
}

/// What the operator has let go of and no budget rests on.
fn movable(commons: &Commons, noted: &Settled) -> anyhow::Result<BTreeSet<StatementId>> {
    let mut after = commons.clone();
    let settled = after.forget_settled();
    ensure!(
        settled.is_some_and(|settled| *settled == *noted),
        "the operator has not let go yet of what the newest checkpoint settles: wait a moment, and see its log"
    );
    let replica = after.replica();
    Ok(replica.logs().flat_map(|(log, _)| replica.archivable(log)).map(|past| past.id).collect())
}

fn write(commons: &Commons, path: &Path) -> anyhow::Result<()> {
    let cannot = || format!("cannot write {}", path.display());
    let file = File::create_new(path).with_context(cannot)?;
    let mut out = BufWriter::new(&file);
    for line in export(commons, now()) {
        out.write_all(&line.to_json()).with_context(cannot)?;
        out.write_all(b"\n").with_context(cannot)?;
    }
    out.flush().with_context(cannot)?;
    drop(out);
    // Entries are removed next: what is in a cache only is not written.
    file.sync_all().with_context(cannot)
}

/// The entries of a bundle.
fn read(path: &Path) -> anyhow::Result<Vec<Signed>> {
    let cannot = || format!("cannot read {}", path.display());
    let mut input = BufReader::new(File::open(path).with_context(cannot)?);
    let mut entries = Vec::new();
    loop {
        let mut line = Vec::new();
        if (&mut input).take(MAX_LINE as u64 + 1).read_until(b'\n', &mut line).with_context(cannot)? == 0 {
            return Ok(entries);
        }
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        if let Line::Entry(envelope) = Line::from_json(line).with_context(cannot)? {
            entries.push(Signed::verify(*envelope).with_context(cannot)?);
        }
    }
}

async fn restore(access: &Access, path: &Path, dry_run: bool) -> anyhow::Result<()> {
    let cluster = Cluster::connect(access).await?;
    let membership = cluster.membership().await?;
    let own = cluster.operator_key().await?;
    let held: BTreeSet<StatementId> = cluster.entries().await?.iter().map(|(_, entry)| entry.id()).collect();
    let missing: Vec<Signed> = read(path)?.into_iter().filter(|entry| !held.contains(&entry.id())).collect();
    if let Some(foreign) = missing.iter().find(|entry| entry.coop() != membership.coop) {
        bail!("{} is of cooperative {}, and this cluster of {}", path.display(), foreign.coop(), membership.coop);
    }
    println!("{} entries of {} are not in the cluster", missing.len(), path.display());
    if dry_run {
        return Ok(());
    }
    let api = cluster.api::<Statement>();
    for entry in &missing {
        let name = name_of(entry, &own);
        let object =
            Statement::new(&name, koinon_api::statement::StatementSpec { envelope: to_api(entry.envelope())? });
        match api.create(&PostParams::default(), &object).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error).with_context(|| format!("cannot put Statement {name} back")),
        }
    }
    println!("{} entries were put back; the operator serves them from its next start on", missing.len());
    Ok(())
}

/// The name that the operator gives it.
fn name_of(entry: &Signed, own: &PublicKey) -> String {
    let key = entry.header().key;
    match entry.log_seq().filter(|_| key == *own) {
        Some(seq) => names::own_entry(&key.to_string(), seq.0),
        None => names::statement(&entry.id().to_string()),
    }
}

#[cfg(test)]
#[path = "archive_tests.rs"]
mod tests;
