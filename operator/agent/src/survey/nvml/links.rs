//! The links of a device to others.

use super::super::wire::{Raw, RawLink, RawLinkErrors, RawLinks};
use super::raw::{Handle, Library};

/// More links than any device has: 18 today. Of one that claims more, no link is asked.
const MAX_LINKS: u32 = 64;
/// As many links as devices have whose drivers do not know the fields below; a device is asked at most 60 times.
const MAX_SINGLE_CALLS: u32 = 18;
/// State, replay, recovery and CRC errors of one link each.
const FIELDS: [u32; 4] = [165, 161, 162, 163];

/// All links, by one call if the driver knows their fields and by one call a link if it does not.
pub(super) fn links(library: &Library, device: Handle, count: Raw<i64>, total: RawLinkErrors) -> RawLinks {
    let links = match count {
        Raw::Value(count) => u32::try_from(count).ok().filter(|count| (1..=MAX_LINKS).contains(count)),
        _ => None,
    };
    let links = links.map_or_else(Vec::new, |links| each(library, device, links));
    RawLinks { count, links, total }
}

fn each(library: &Library, device: Handle, links: u32) -> Vec<RawLink> {
    let wanted: Vec<(u32, u32)> = (0..links).flat_map(|link| FIELDS.map(|field| (field, link))).collect();
    let found: Vec<RawLink> = match library.fields(device, &wanted) {
        Raw::Value(values) => values.chunks_exact(FIELDS.len()).map(link).collect(),
        failed => (0..links).map(|_| of_all(&failed)).collect(),
    };
    let unknown = found.iter().all(|link| link.state.is_unsupported_field());
    if !unknown || links > MAX_SINGLE_CALLS {
        return found;
    }
    let mut found = found;
    for (number, link) in (0..links).zip(&mut found) {
        link.state = library.link_state(device, number).map(i64::from);
        // No device answers for its first link only.
        if number == 0 && link.state.is_unsupported() {
            break;
        }
    }
    found
}

fn link(values: &[Raw<i64>]) -> RawLink {
    let value = |place: usize| values.get(place).cloned().unwrap_or_default();
    RawLink { state: value(0), errors: RawLinkErrors { replay: value(1), recovery: value(2), crc: value(3) } }
}

fn of_all(failed: &Raw<Vec<Raw<i64>>>) -> RawLink {
    let why = || failed.clone().and_then(|_| Raw::NotAsked);
    RawLink { state: why(), errors: RawLinkErrors { replay: why(), recovery: why(), crc: why() } }
}
