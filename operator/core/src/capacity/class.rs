//! What devices are called where only their kind matters.

use crate::ids::{Bytes, GpuClass};

const GIBIBYTE: u64 = 1 << 30;

/// The class that a device's product and memory make, such as `h100-80` of an `NVIDIA H100 80GB HBM3`: the words of the
/// product's name up to the first with a digit, and the memory that the driver reports in GiB, rounded up. None if no name
/// can be made of it.
#[must_use]
pub fn class_of(product: &str, memory: Bytes) -> Option<GpuClass> {
    const BRANDS: [&str; 4] = ["nvidia", "tesla", "geforce", "quadro"];
    /// `RTX PRO 6000` is the longest.
    const MOST_WORDS: usize = 3;
    let lower = product.to_ascii_lowercase();
    let words = lower
        .split(|character: char| !character.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty() && !BRANDS.contains(word))
        .take(MOST_WORDS);
    let mut name: Vec<&str> = Vec::new();
    for word in words {
        name.push(word);
        if word.bytes().any(|byte| byte.is_ascii_digit()) {
            break;
        }
    }
    if name.is_empty() || memory.0 == 0 {
        return None;
    }
    format!("{}-{}", name.join("-"), gibibytes(memory)).parse().ok()
}

/// The class of a Multi-Instance GPU instance of a device of class `parent`, such as `h100-80-1g-10gb` of what NVIDIA calls
/// the profile `1g.10gb`: compute slices, and memory in GiB, rounded up as in those names. None if no name can be made of it.
#[must_use]
pub fn class_of_instance(parent: &GpuClass, slices: u32, memory: Bytes) -> Option<GpuClass> {
    if slices == 0 || memory.0 == 0 {
        return None;
    }
    format!("{parent}-{slices}g-{}gb", gibibytes(memory)).parse().ok()
}

fn gibibytes(memory: Bytes) -> u64 {
    memory.0.div_ceil(GIBIBYTE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_called_by_its_parent_and_its_profile() {
        const MIB: u64 = 1 << 20;
        let class = |parent: &str, slices, mebibytes| {
            class_of_instance(&parent.parse().unwrap(), slices, Bytes(mebibytes * MIB)).unwrap().to_string()
        };
        // As drivers report them: 1g.10gb, 3g.40gb and 7g.80gb of an H100, 1g.5gb of an A100.
        assert_eq!(class("h100-80", 1, 9_728), "h100-80-1g-10gb");
        assert_eq!(class("h100-80", 3, 40_448), "h100-80-3g-40gb");
        assert_eq!(class("h100-80", 7, 81_008), "h100-80-7g-80gb");
        assert_eq!(class("a100-40", 1, 4_864), "a100-40-1g-5gb");
        assert_eq!(class_of_instance(&"h100-80".parse().unwrap(), 0, Bytes(MIB)), None);
    }
}
