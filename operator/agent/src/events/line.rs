//! Lines of the kernel's log in which NVIDIA's driver reports an error of a GPU.
//!
//! The driver writes `NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, name=python3, GPU has fallen off the bus.`, on a divided
//! device with ` GPU-I:05` or ` GPU-I:05 GPU-CI:00` behind the place, from old drivers without `PCI:`, and some tools with the
//! function of the device or with its UUID. All of it is text that anybody in the kernel, and whoever may write to
//! `/dev/kmsg`, can write.

use koinon_core::gpu::device::InstancePlace;
use koinon_core::gpu::xid::Xid;
use koinon_core::ids::DeviceId;

use super::place::BusId;

/// What follows the number is cut here.
const MAX_DETAIL_CHARS: usize = 128;
/// The kernel's own limit for a record; more is not looked at.
const MAX_LINE_BYTES: usize = 8 * 1024;
/// The code of a GPU that has fallen off the bus.
const FALLEN_OFF_THE_BUS: Xid = Xid(79);

/// Which device a line names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// By its place.
    Bus(BusId),
    /// By its UUID.
    Device(DeviceId),
}

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Of whom.
    pub named: Named,
    /// Which error.
    pub xid: Xid,
    /// Whether it is a line with a code, not the plain sentence that a device fell off the bus, which most drivers write as well.
    pub coded: bool,
    /// In which instance. All ones stand for a compute instance that is not named.
    pub place: Option<InstancePlace>,
    /// What follows the number.
    pub detail: Option<String>,
}

/// One record of `/dev/kmsg`: its number, its time in microseconds since the boot, and its text.
pub fn record(record: &str) -> Option<(u64, u64, &str)> {
    let (head, text) = record.split_once(';')?;
    let mut parts = head.split(',');
    let (_priority, number, time) = (parts.next()?, parts.next()?, parts.next()?);
    Some((number.parse().ok()?, time.parse().ok()?, text))
}

/// What the text of a record says of a GPU, if anything.
pub fn parse(text: &str) -> Option<Said> {
    let text = match text.char_indices().nth(MAX_LINE_BYTES) {
        Some((end, _)) => text.get(..end)?,
        None => text,
    };
    xid(text).or_else(|| fallen(text))
}

fn xid(text: &str) -> Option<Said> {
    let (before, rest) = text.split_once("Xid (")?;
    // Errors of switches are `SXid`, and mean something else.
    if !before.ends_with(' ') || !before.contains("NVRM:") || before.len() > 64 {
        return None;
    }
    let (subject, rest) = rest.split_once("):")?;
    let rest = rest.trim_start();
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = rest.split_at_checked(digits)?;
    // Behind the number is a comma, the end, or a blank: not a letter, which would make it another number.
    if !(rest.is_empty() || rest.starts_with([',', ' ', '\n', '.', '\\'])) {
        return None;
    }
    let mut words = subject.split_ascii_whitespace();
    let named = named(words.next()?)?;
    let (mut gpu, mut compute) = (None, None);
    for word in words {
        if let Some(number) = word.strip_prefix("GPU-I:") {
            gpu = instance(number);
        } else if let Some(number) = word.strip_prefix("GPU-CI:") {
            compute = instance(number);
        }
    }
    let place = gpu.map(|gpu_instance| InstancePlace { gpu_instance, compute_instance: compute.unwrap_or(u32::MAX) });
    Some(Said {
        named,
        xid: Xid(number.parse().ok()?),
        coded: true,
        place,
        detail: detail(rest.trim_start_matches(',')),
    })
}

/// `NVRM: GPU at 0000:01:00.0 has fallen off the bus.`, `NVRM: GPU 0000:01:00.0: GPU has fallen off the bus.`, and
/// `NVRM: The NVIDIA GPU 0000:b3:00.0`, which after a line break goes on `fallen off the bus and is not responding`.
fn fallen(text: &str) -> Option<Said> {
    if !text.contains("fallen off the bus") || text.contains("Xid (") {
        return None;
    }
    let (before, rest) = text.split_once("GPU ")?;
    if !before.trim_start().starts_with("NVRM:") {
        return None;
    }
    let word = rest.strip_prefix("at ").unwrap_or(rest).split_ascii_whitespace().next()?;
    // In a record a line break stands as the four characters `\x0a`.
    let word = word.split('\\').next()?;
    Some(Said {
        named: named(word.trim_end_matches([':', '.', ',']))?,
        xid: FALLEN_OFF_THE_BUS,
        coded: false,
        place: None,
        detail: detail(text),
    })
}

fn named(word: &str) -> Option<Named> {
    if word.starts_with("GPU-") {
        return crate::survey::gpu_id(word).map(Named::Device);
    }
    BusId::parse(word.strip_prefix("PCI:").unwrap_or(word)).map(Named::Bus)
}

fn instance(number: &str) -> Option<u32> {
    (number.len() <= 4).then(|| number.parse().ok()).flatten()
}

fn detail(text: &str) -> Option<String> {
    let text = crate::survey::readable(text, MAX_DETAIL_CHARS);
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
#[path = "line_tests.rs"]
mod tests;
