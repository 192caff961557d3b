//! Reading a bundle line by line, up to the first thing that does not hold.

use std::collections::{BTreeMap, BTreeSet};

use super::bundle::{Claims, FORMAT, Line, Opening, last_entries};
use super::report::Report;
use crate::body::proposal::Scope;
use crate::dsse::Envelope;
use crate::founding::{Founding, FoundingError};
use crate::ids::{CoopId, Digest, MemberId, PolicyHash, PublicKey, Seq, StatementId, UnixSeconds};
use crate::json::JsonError;
use crate::log::{Limits, Proved, Refused};
use crate::policy::Commons;
use crate::statement::{Position, Statement, StatementError};

/// The first thing in a bundle that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} does not hold: {problem}")]
pub struct Finding {
    /// In which line, counted from 1.
    pub line: u64,
    /// What it is.
    pub problem: Problem,
}

/// What keeps a bundle from holding.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// It is no line of a bundle.
    #[error(transparent)]
    Line(#[from] JsonError),
    /// A line stands where it does not belong.
    #[error("a bundle is one founding, then entries, then one end: this line is out of its place")]
    OutOfPlace,
    /// Another version wrote it.
    #[error("it has format {0}, this version reads format {FORMAT}")]
    Format(u32),
    /// The charter founds nothing.
    #[error("the founding does not hold: {0}")]
    Founding(#[from] FoundingError),
    /// The entry is no statement that holds.
    #[error("the entry does not hold: {0}")]
    Statement(#[from] StatementError),
    /// The statement has no position in a log.
    #[error("a {0} statement is no log entry")]
    NotAnEntry(String),
    /// The entry belongs to another cooperative.
    #[error("the entry belongs to cooperative {0}")]
    OtherCooperative(CoopId),
    /// The first entry of a log must follow the cooperative itself.
    #[error("the first entry of log {0} does not name the cooperative as the one before it")]
    WrongStart(PublicKey),
    /// What the entry follows does not stand before it.
    #[error("entry {seq} of log {log} follows {prev}, which no earlier line holds: entries are missing")]
    Gap {
        /// The log.
        log: PublicKey,
        /// The entry's number.
        seq: Seq,
        /// What it follows.
        prev: Digest,
    },
    /// Two branches are all that members keep of a fork.
    #[error("position {seq} of log {log} has two payloads already, which prove the fork")]
    ThirdBranch {
        /// The log.
        log: PublicKey,
        /// The position.
        seq: Seq,
    },
    /// An entry that came before.
    #[error("entry {0} stands in the bundle twice")]
    Repeated(StatementId),
    /// The log is nobody's.
    #[error("log {0} belongs to no member that was ever admitted")]
    UnknownLog(PublicKey),
    /// The log is another member's.
    #[error("log {log} is {owner}'s, the entry names {author} as its author")]
    OtherAuthor {
        /// The log.
        log: PublicKey,
        /// Whose it is.
        owner: MemberId,
        /// Who the entry says it is.
        author: MemberId,
    },
    /// A checkpoint is not what remains of the entries up to it.
    #[error("checkpoint {version} settles something else than the entries up to it amount to: {why}")]
    Checkpoint {
        /// Its version.
        version: PolicyHash,
        /// What differs.
        why: String,
    },
    /// It ends before its end.
    #[error("the bundle ends here without its last line: it was cut off")]
    CutOff,
    /// More or fewer entries than claimed.
    #[error("it claims {claimed} entries and has {seen}")]
    Entries {
        /// The exporter's.
        claimed: u64,
        /// What was read.
        seen: u64,
    },
    /// A proof of a fork holds an entry that is not in the bundle.
    #[error("entry {0} stands in a proof of a fork, and not in the bundle")]
    Unlisted(StatementId),
    /// A policy does not end where the exporter says.
    #[error("it claims {} as the newest version of {scope}, the entries amount to {}", or_none(.claimed), or_none(.seen))]
    PolicyHead {
        /// The chain.
        scope: Scope,
        /// The exporter's.
        claimed: Option<PolicyHash>,
        /// What follows from the entries.
        seen: Option<PolicyHash>,
    },
    /// A log does not end where the exporter says.
    #[error("log {0} does not end in the entries that it claims: entries are missing at its end")]
    LogHead(PublicKey),
}

fn or_none(hash: &Option<PolicyHash>) -> String {
    hash.map_or_else(|| "none".to_owned(), |hash| hash.to_string())
}

impl Problem {
    /// A short name, the same in every implementation of the audit.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Line(_) => "BadLine",
            Self::OutOfPlace => "OutOfPlace",
            Self::Format(_) => "OtherFormat",
            Self::Founding(FoundingError::OtherCooperative { .. }) | Self::OtherCooperative(_) => "OtherCooperative",
            Self::Founding(_) => "BadFounding",
            Self::Statement(error) => error.category(),
            Self::NotAnEntry(_) => "NotAnEntry",
            Self::WrongStart(_) => "WrongStart",
            Self::Gap { .. } => "Gap",
            Self::ThirdBranch { .. } => "ThirdBranch",
            Self::Repeated(_) => "Repeated",
            Self::UnknownLog(_) => "UnknownLog",
            Self::OtherAuthor { .. } => "OtherAuthor",
            Self::Checkpoint { .. } => "Checkpoint",
            Self::CutOff => "CutOff",
            Self::Entries { .. } => "WrongCount",
            Self::Unlisted(_) => "Unlisted",
            Self::PolicyHead { .. } => "PolicyHead",
            Self::LogHead(_) => "LogHead",
        }
    }
}

/// One log as far as it was read.
#[derive(Debug, Default)]
struct Log {
    placed: BTreeMap<StatementId, Seq>,
    at: BTreeMap<Seq, usize>,
}

/// Reads a bundle; see [`Reader::line`].
#[derive(Debug, Default)]
pub struct Reader {
    line: u64,
    opened: Option<(Founding, UnixSeconds)>,
    logs: BTreeMap<PublicKey, Log>,
    entries: Vec<(u64, Statement)>,
    claims: Option<Claims>,
}

impl Reader {
    /// One that has read nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the next line, without its line break.
    pub fn line(&mut self, bytes: &[u8]) -> Result<(), Finding> {
        self.line += 1;
        self.read(bytes).map_err(|problem| self.finding(problem))
    }

    fn finding(&self, problem: Problem) -> Finding {
        Finding { line: self.line, problem }
    }

    fn read(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        match (Line::from_json(bytes)?, &self.opened, &self.claims) {
            (Line::Founding(opening), None, None) => self.open(*opening),
            (Line::Entry(envelope), Some((founding, _)), None) => {
                let entry = self.place(*envelope, founding.coop())?;
                self.entries.push((self.line, entry));
                Ok(())
            }
            (Line::End(claims), Some(_), None) => {
                self.claims = Some(*claims);
                Ok(())
            }
            _ => Err(Problem::OutOfPlace),
        }
    }

    fn open(&mut self, opening: Opening) -> Result<(), Problem> {
        if opening.format != FORMAT {
            return Err(Problem::Format(opening.format));
        }
        let founding = Founding::verify_as(opening.charter, opening.coop)?;
        self.opened = Some((founding, opening.as_of));
        Ok(())
    }

    /// Verifies an entry and gives it its place behind the one that it names.
    fn place(&mut self, envelope: Envelope, coop: CoopId) -> Result<Statement, Problem> {
        let entry = Statement::verify(envelope)?;
        let Position::Log { seq, prev } = *entry.position() else {
            return Err(Problem::NotAnEntry(entry.kind().to_string()));
        };
        if entry.coop() != coop {
            return Err(Problem::OtherCooperative(entry.coop()));
        }
        let (id, key) = (entry.id(), entry.header().key);
        let log = self.logs.entry(key).or_default();
        if log.placed.contains_key(&id) {
            return Err(Problem::Repeated(id));
        }
        match seq.0.checked_sub(1) {
            None if prev != coop.0 => return Err(Problem::WrongStart(key)),
            Some(before) if log.placed.get(&StatementId(prev)) != Some(&Seq(before)) => {
                return Err(Problem::Gap { log: key, seq, prev });
            }
            _ => {}
        }
        let here = log.at.entry(seq).or_default();
        if *here > 1 {
            return Err(Problem::ThirdBranch { log: key, seq });
        }
        *here += 1;
        log.placed.insert(id, seq);
        Ok(entry)
    }

    /// What all of it amounts to.
    pub fn finish(mut self) -> Result<Report, Finding> {
        let (Some((founding, as_of)), Some(claims)) = (self.opened.take(), self.claims.take()) else {
            self.line += 1;
            return Err(self.finding(Problem::CutOff));
        };
        let seen = self.entries.len() as u64;
        if seen != claims.entries {
            return Err(self.finding(Problem::Entries { claimed: claims.entries, seen }));
        }
        let lines: BTreeMap<StatementId, u64> = self.entries.iter().map(|(line, entry)| (entry.id(), *line)).collect();
        let entries = std::mem::take(&mut self.entries);
        let as_given = Limits { proved: Proved::Noted, ..Limits::NONE };
        let (commons, refused) = Commons::load(founding, as_given, entries.into_iter().map(|(_, entry)| entry));
        let first = refused.into_iter().min_by_key(|(id, _)| lines.get(id).copied());
        if let Some((id, refused)) = first {
            return Err(Finding {
                line: lines.get(&id).copied().unwrap_or(self.line),
                problem: of_refused(refused, id),
            });
        }
        self.check_claims(&commons, &claims)?;
        if let Some((version, why)) = commons.false_checkpoint() {
            return Err(self.finding(Problem::Checkpoint { version, why }));
        }
        Ok(Report::of(&commons, as_of))
    }

    fn check_claims(&self, commons: &Commons, claims: &Claims) -> Result<(), Finding> {
        let replica = commons.replica();
        // What follows the listed entries is an entry like any other; what does not is on a branch that members may lack.
        if let Some((entry, _)) = replica.unlisted().find(|(_, follows)| *follows) {
            return Err(self.finding(Problem::Unlisted(entry.id())));
        }
        let heads = commons.state().heads();
        let scopes: BTreeSet<&Scope> = heads.keys().chain(claims.policy.keys()).collect();
        for scope in scopes {
            let (claimed, seen) = (claims.policy.get(scope).copied(), heads.get(scope).copied());
            if claimed != seen {
                return Err(self.finding(Problem::PolicyHead { scope: *scope, claimed, seen }));
            }
        }
        let last = last_entries(replica);
        let logs: BTreeSet<&PublicKey> = last.keys().chain(claims.logs.keys()).collect();
        match logs.into_iter().find(|log| last.get(log) != claims.logs.get(log)) {
            Some(log) => Err(self.finding(Problem::LogHead(*log))),
            None => Ok(()),
        }
    }
}

fn of_refused(refused: Refused, id: StatementId) -> Problem {
    match refused {
        Refused::NotAnEntry(kind) => Problem::NotAnEntry(kind),
        Refused::OtherCooperative { seen, .. } => Problem::OtherCooperative(seen),
        Refused::UnknownLog(log) => Problem::UnknownLog(log),
        Refused::OtherAuthor { log, owner, author } => Problem::OtherAuthor { log, owner, author },
        Refused::WrongStart(log) => Problem::WrongStart(log),
        Refused::ThirdBranch { log, seq } => Problem::ThirdBranch { log, seq },
        // Nothing is too much here.
        Refused::TooFarAhead { .. } | Refused::Capped { .. } => Problem::Unlisted(id),
    }
}
