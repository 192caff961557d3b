//! What the words behind an XID of a link say: 74 up to NVLink 4, 144 to 150 from NVLink 5 on.
//!
//! A line that cannot be read has the worse meaning: a reset, which is what NVIDIA's text about these codes asks for.

use std::sync::OnceLock;

use super::Xid;

const TEXT: &str = include_str!("links.tsv");

/// What the words say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkVerdict {
    /// Nothing to do.
    Ignore,
    /// What was hit starts again.
    RestartWorkload,
    /// The links are not well.
    Degraded,
    /// The device needs a reset.
    Reset,
}

/// A row of `links.tsv`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct LinkRow {
    xid: Xid,
    units: [String; 2],
    /// Bits 9 to 0 of the first word before driver R575, and 6 to 0 from it on.
    low: [u32; 2],
    sub: u32,
    status: Option<u32>,
    verdict: LinkVerdict,
    promoted: Option<LinkVerdict>,
}

fn rows() -> &'static [LinkRow] {
    static ROWS: OnceLock<Vec<LinkRow>> = OnceLock::new();
    ROWS.get_or_init(|| lines().filter_map(row).collect())
}

/// Lines of the file that cannot be used; none, or a test fails.
pub fn faults() -> Vec<&'static str> {
    lines().filter(|line| row(line).is_none()).collect()
}

fn lines() -> impl Iterator<Item = &'static str> {
    TEXT.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).skip(1)
}

fn row(line: &str) -> Option<LinkRow> {
    let columns: Vec<&str> = line.split('\t').collect();
    let [code, unit, v1, v2, sub, status, action, promoted] = columns[..] else { return None };
    let (before, since) = unit.split_once('/').unwrap_or((unit, unit));
    let bits = |text: &str, length: usize| (text.len() == length).then(|| u32::from_str_radix(text, 2).ok()).flatten();
    Some(LinkRow {
        xid: Xid(code.parse().ok()?),
        units: [before.to_owned(), since.to_owned()],
        low: [bits(v1, 10)?, bits(v2, 7)?],
        sub: bits(sub, 6)?,
        status: if status == "*" { None } else { Some(hex(status)?) },
        verdict: verdict(action)?,
        promoted: if promoted == "-" { None } else { Some(verdict(promoted)?) },
    })
}

fn verdict(word: &str) -> Option<LinkVerdict> {
    match word {
        "IGNORE" => Some(LinkVerdict::Ignore),
        // NVIDIA: an XID 154 beside it says what to do, and is judged by itself; without one the application restarts.
        "XID_154_EVAL" => Some(LinkVerdict::RestartWorkload),
        "RESET_GPU" => Some(LinkVerdict::Reset),
        _ => None,
    }
}

fn hex(word: &str) -> Option<u32> {
    u32::from_str_radix(word.strip_prefix("0x")?, 16).ok()
}

/// The words between the last brackets of a line, such as `(0x0, 0x10000)` or `(0x004505c6 0x00000000)`.
fn words(detail: &str) -> Option<Vec<u32>> {
    let (_, after) = detail.rsplit_once('(')?;
    let (inside, _) = after.split_once(')')?;
    inside.split([' ', ',']).filter(|word| !word.is_empty()).map(hex).collect()
}

/// What the unit and the first two words say of an XID of 144 to 150.
#[must_use]
pub fn subcode(xid: Xid, detail: Option<&str>) -> LinkVerdict {
    let Some(detail) = detail else { return LinkVerdict::Reset };
    let Some(words) = words(detail) else { return LinkVerdict::Reset };
    let (Some(info), Some(status)) = (words.first(), words.get(1)) else { return LinkVerdict::Reset };
    let named = |row: &LinkRow| {
        let mut said = detail.split(|character: char| !(character.is_ascii_alphanumeric() || character == '_'));
        said.any(|word| row.units.iter().any(|unit| unit == word))
    };
    let matching = rows().iter().filter(|row| {
        row.xid == xid
            && row.low_at(*info).is_some()
            && row.sub == (info >> 20) & 0x3f
            && row.status.is_none_or(|expected| expected == *status)
            && named(row)
    });
    matching.map(|row| row.read(*info)).max().unwrap_or(LinkVerdict::Reset)
}

impl LinkRow {
    /// How many low bits of `info` are those of this row: seven from R575 on, ten before.
    fn low_at(&self, info: u32) -> Option<u32> {
        match self.low {
            [_, since] if info & 0x7f == since => Some(7),
            [before, _] if info & 0x3ff == before => Some(10),
            _ => None,
        }
    }

    fn read(&self, info: u32) -> LinkVerdict {
        match (self.promoted, self.low_at(info)) {
            (Some(promoted), Some(bits)) if info & (1 << bits) != 0 => promoted,
            _ => self.verdict,
        }
    }
}

/// Bits of one register of XID 74, by NVIDIA's `WORKFLOW_NVLINK_ERR`.
struct Register {
    /// Can be ignored, or a count of corrected errors.
    benign: u32,
    /// A link that is not well: repeated, marginal, a consequence of another error, or perhaps its hardware.
    link: u32,
    /// Needs a reset of the fabric.
    reset: u32,
}

const fn bits<const N: usize>(of: [u32; N]) -> u32 {
    let (mut mask, mut at) = (0, 0);
    while at < N {
        mask |= 1 << of[at];
        at += 1;
    }
    mask
}

/// The first, third, fourth and fifth register are valid; the others are zero on every product that the text names.
const REGISTERS: [Register; 7] = [
    Register {
        benign: bits([0, 23, 30]),
        link: bits([1, 4, 5, 8, 9, 12, 16, 17, 20, 21, 22, 24, 27, 28, 29]),
        reset: 0,
    },
    Register { benign: 0, link: 0, reset: 0 },
    Register { benign: 0, link: bits([0, 1, 2, 6, 13, 16, 17, 18, 19]), reset: 0 },
    Register { benign: 0, link: bits([16, 17]), reset: bits([18]) },
    Register { benign: bits([20, 23, 26, 29]), link: bits([18, 19, 21, 22, 24, 25, 27, 28]), reset: 0 },
    Register { benign: 0, link: 0, reset: 0 },
    Register { benign: 0, link: 0, reset: 0 },
];

/// What the seven registers of an XID 74 say. A bit that NVIDIA does not explain has the worse meaning.
#[must_use]
pub fn registers(detail: Option<&str>) -> LinkVerdict {
    let Some(words) = detail.and_then(words) else { return LinkVerdict::Reset };
    if words.len() != REGISTERS.len() || words.iter().all(|word| *word == 0) {
        return LinkVerdict::Reset;
    }
    let read = words.iter().zip(&REGISTERS).map(|(word, known)| match word {
        word if word & (known.reset | !(known.benign | known.link)) != 0 => LinkVerdict::Reset,
        word if word & known.link != 0 => LinkVerdict::Degraded,
        _ => LinkVerdict::Ignore,
    });
    read.max().unwrap_or(LinkVerdict::Reset)
}
