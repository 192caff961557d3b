//! `kubectl koinon audit`: every decision since the founding, checked from one file.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read as _, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Subcommand, ValueEnum};
use koinon_core::audit::{Finding, Line, MAX_LINE, Reader, Report, canonical, canonical_finding, export};

use crate::access::Access;
use crate::archive;
use crate::audit_text::text;
use crate::cluster::{Cluster, now};

/// How an outsider uses it.
const EXAMPLES: &str = "\
Example, at a member, and then anywhere, with no cluster and no network:
  kubectl koinon audit export -o history.jsonl
  kubectl koinon audit history.jsonl
A file can tell only of what its exporter held. Compare the heads that are printed
with those that other members quote, or audit exports of several members.";

/// Check every decision since the founding from an exported file: needs no cluster and no network.
///
/// Recomputes what the entries of all logs amount to, prints each decision with its votes and seals, each other proposal
/// with why it came to nothing, and fails on the first thing that does not hold.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    /// The exported file; - is standard input.
    #[arg(required = true, value_name = "FILE")]
    file: Option<PathBuf>,
    /// How the result is printed.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Form,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write the charter and every entry of every log that this member's cluster holds into one file.
    Export {
        /// The file to write; without it the export goes to standard output.
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Archives, where entries were moved out of the cluster (kubectl koinon archive).
        #[arg(long = "with", value_name = "FILE")]
        archives: Vec<PathBuf>,
    },
}

/// How an audit is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// For people.
    Text,
    /// Everything, as JSON.
    Json,
    /// Line by line as every implementation of the audit prints it, to be compared.
    Canonical,
}

impl Args {
    pub async fn run(self, access: &Access) -> anyhow::Result<()> {
        let Self { file, output, command } = self;
        match (command, file) {
            (Some(Command::Export { output, archives }), _) => write(access, output.as_deref(), &archives).await,
            (None, Some(file)) => check(&file, output),
            (None, None) => bail!("name the exported file"),
        }
    }
}

async fn write(access: &Access, output: Option<&Path>, archives: &[PathBuf]) -> anyhow::Result<()> {
    let cluster = Cluster::connect(access).await?;
    let membership = cluster.membership().await?;
    let commons = archive::whole(&cluster, &membership, archives).await?;
    let waiting = commons.replica().waiting();
    if waiting > 0 {
        eprintln!("left out: {waiting} entries that follow ones which this cluster does not hold yet");
    }
    let lines = export(&commons, now());
    let Some(path) = output else { return write_lines(&mut std::io::stdout().lock(), lines) };
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    write_lines(&mut BufWriter::new(file), lines).with_context(|| format!("cannot write {}", path.display()))?;
    eprintln!("wrote {}; check it anywhere: kubectl koinon audit {}", path.display(), path.display());
    Ok(())
}

fn write_lines(out: &mut dyn Write, lines: impl Iterator<Item = Line>) -> anyhow::Result<()> {
    for line in lines {
        out.write_all(&line.to_json())?;
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}

fn check(path: &Path, form: Form) -> anyhow::Result<()> {
    let audited = if path.as_os_str() == "-" {
        read(&mut std::io::stdin().lock())
    } else {
        let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        read(&mut BufReader::new(file))
    };
    let audited = audited.with_context(|| format!("cannot read {}", path.display()))?;
    print!("{}", shown(&audited, form)?);
    audited.map(drop).with_context(|| format!("{} does not prove what it claims", path.display()))
}

/// Reads a bundle a line at a time; a line is never read beyond the length that one may have.
fn read(input: &mut dyn BufRead) -> std::io::Result<Result<Report, Finding>> {
    let mut reader = Reader::new();
    loop {
        let mut line = Vec::new();
        if input.take(MAX_LINE as u64 + 1).read_until(b'\n', &mut line)? == 0 {
            return Ok(reader.finish());
        }
        if let Err(finding) = reader.line(line.strip_suffix(b"\n").unwrap_or(&line)) {
            return Ok(Err(finding));
        }
    }
}

fn shown(audited: &Result<Report, Finding>, form: Form) -> anyhow::Result<String> {
    Ok(match (audited, form) {
        (Ok(report), Form::Text) => text(report),
        (Ok(report), Form::Json) => serde_json::to_string_pretty(report)? + "\n",
        (Ok(report), Form::Canonical) => canonical(report),
        (Err(finding), Form::Canonical) => canonical_finding(finding),
        (Err(finding), Form::Json) => {
            let found = serde_json::json!({"holds": false, "line": finding.line, "problem": finding.problem.category(),
                "message": finding.problem.to_string()});
            serde_json::to_string_pretty(&found)? + "\n"
        }
        // The error itself says it.
        (Err(_), Form::Text) => String::new(),
    })
}

#[cfg(test)]
#[path = "audit_tests.rs"]
mod tests;
