//! Text of the library, made fit for resources, labels, logs and terminals.

use koinon_core::ids::{DeviceId, Line};

/// NVML's longest texts have 95 bytes.
const MAX_NAME_CHARS: usize = 95;

/// A version of driver or library, of the characters that such versions have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(String);

impl Version {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let usual = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'+');
        ((1..=79).contains(&text.len()) && text.bytes().all(usual)).then(|| Self(text.to_owned()))
    }

    /// Letters, digits, dots and dashes.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A device's UUID as NVML, the device plugin and the kubelet write it: `GPU-` and a UUID.
pub(crate) fn gpu_id(text: &str) -> Option<DeviceId> {
    text.strip_prefix("GPU-").filter(|digits| is_uuid(digits)).and_then(|_| text.parse().ok())
}

/// An instance's: `MIG-` and a UUID, or from drivers before 470 `MIG-GPU-`, the device's UUID and the two numbers of the
/// instance.
pub(super) fn instance_id(text: &str) -> Option<DeviceId> {
    let rest = text.strip_prefix("MIG-")?;
    let number = |text: &str| (1..=3).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    let old = || {
        let mut parts = rest.strip_prefix("GPU-")?.splitn(3, '/');
        let (uuid, gpu, compute) = (parts.next()?, parts.next()?, parts.next()?);
        (is_uuid(uuid) && number(gpu) && number(compute)).then_some(())
    };
    (is_uuid(rest) || old().is_some()).then(|| text.parse().ok()).flatten()
}

fn is_uuid(text: &str) -> bool {
    let groups: Vec<&str> = text.splitn(6, '-').collect();
    let lengths: Vec<usize> = groups.iter().map(|group| group.len()).collect();
    lengths == [8, 4, 4, 4, 12] && groups.iter().all(|group| group.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// A place on the bus as `00000000:3B:00.0`: domain, bus, device, function.
pub(super) fn bus_id(text: &str) -> Option<Line> {
    let hexadecimal = |at: usize| text.as_bytes().get(at).is_some_and(u8::is_ascii_hexdigit);
    let separators = [(8, b':'), (11, b':'), (14, b'.')];
    let is_separator = |at: usize| separators.iter().find(|(place, _)| *place == at).map(|(_, byte)| *byte);
    let fits = text.len() == 16
        && (0..16).all(|at| match is_separator(at) {
            Some(byte) => text.as_bytes().get(at) == Some(&byte),
            None => hexadecimal(at),
        });
    fits.then(|| text.to_ascii_uppercase().parse().ok()).flatten()
}

/// A name: anything that is not a printable ASCII character becomes `?`.
pub(super) fn name(text: &str) -> Option<Line> {
    let clean = readable(text, MAX_NAME_CHARS);
    (!clean.is_empty()).then(|| clean.parse().ok()).flatten()
}

/// Text for people: printable ASCII, without runs of spaces, of at most `limit` characters.
pub(crate) fn readable(text: &str, limit: usize) -> String {
    let printable: String = text
        .chars()
        .take(limit.saturating_mul(4))
        .map(|character| match character {
            ' '..='~' => character,
            _ if character.is_whitespace() => ' ',
            _ => '?',
        })
        .collect();
    let words: Vec<&str> = printable.split(' ').filter(|word| !word.is_empty()).collect();
    words.join(" ").chars().take(limit).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_forms_of_an_instance_id_are_read_and_nothing_else() {
        for good in [
            "MIG-fa4e0000-0000-4000-8000-000000000001",
            "MIG-GPU-fa4e0000-0000-4000-8000-000000000001/7/0",
            "MIG-GPU-fa4e0000-0000-4000-8000-000000000001/11/12",
        ] {
            assert_eq!(instance_id(good).unwrap().as_str(), good);
        }
        for bad in [
            "GPU-fa4e0000-0000-4000-8000-000000000001",
            "MIG-",
            "MIG-GPU-fa4e0000-0000-4000-8000-000000000001",
            "MIG-GPU-fa4e0000-0000-4000-8000-000000000001/7",
            "MIG-GPU-fa4e0000-0000-4000-8000-000000000001/7/0/1",
            "MIG-GPU-fa4e0000-0000-4000-8000-000000000001/-7/0",
            "MIG-fa4e0000-0000-4000-8000-00000000000g",
        ] {
            assert_eq!(instance_id(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_place_on_the_bus_has_one_form() {
        assert_eq!(bus_id("00000000:3b:00.0").unwrap().as_str(), "00000000:3B:00.0");
        for bad in ["", "0000:3B:00.0", "00000000:3B:00", "00000000:3B:00.0 ", "0000000g:3B:00.0", "00000000-3B:00.0"] {
            assert_eq!(bus_id(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_name_is_always_short_printable_ascii(text in any::<String>()) {
            let clean = readable(&text, 95);
            prop_assert!(clean.len() <= 95 && clean.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in any::<String>()) {
            let _ = (gpu_id(&text), instance_id(&text), bus_id(&text), name(&text));
            let _ = (instance_id(&format!("MIG-{text}")), gpu_id(&format!("GPU-{text}")));
        }
    }
}
