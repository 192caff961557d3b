//! The audit: every decision since the founding, from one file and nothing else.
//!
//! ```text
//! founding ─▶ entries, each behind the one that it names ─▶ end: what the exporter claims
//!     └── Reader: a line at a time ──▶ Commons ──▶ Report, or the first thing that does not hold
//! ```
//!
//! Nothing in the file is believed. What it holds is folded as every member folds it, and the claims at its end must
//! follow from that: the newest version of every policy and the last entries of every log. A file that was cut off, or
//! lacks an entry in the middle, is refused; one that ends early at every log is a history that was once complete, so
//! whoever audits compares its heads with those that members quote.

mod bundle;
mod canonical;
mod conclude;
mod members;
mod read;
mod report;
#[cfg(test)]
mod tests;

pub use bundle::{Claims, FORMAT, Line, MAX_LINE, Opening, export};
pub use canonical::{canonical, canonical_finding};
pub use members::{
    BranchReport, KeyReport, LogReport, MemberReport, NoticeReport, OrderReport, OrderStanding, ProofReport,
};
pub use read::{Finding, Problem, Reader};
pub use report::{
    BoxReport, CertificateReport, Decision, EndedReport, EngineReport, FaultReport, ForkReport, LeaveReport,
    ProposalReport, ReleaseReport, Report, Signed, Standing, TallyReport, VoteReport,
};

/// Audits a whole bundle.
pub fn audit(bytes: &[u8]) -> Result<Report, Finding> {
    let mut reader = Reader::new();
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        reader.line(line.strip_suffix(b"\n").unwrap_or(line))?;
    }
    reader.finish()
}
