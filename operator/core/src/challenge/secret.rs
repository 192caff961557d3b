//! What the challenger knows and the prover does not, until it has answered.
//!
//! ```text
//!  secret ──SHA-256──▶ salt ──SHA-256──▶ commitment        said first: commitment; then salt; secret last
//! ```
//!
//! Who hears the commitment knows neither salt nor secret, and who hears the salt does not know the secret; yet each is fixed by
//! the first. So the challenger cannot choose rows to please or to harm once it has seen the roots, and the prover cannot
//! choose roots for which the rows fall well.

use std::collections::BTreeSet;

use sha2::{Digest as _, Sha256};

use super::task::{Node, Seed, Size, bytes_type, rows_each};

bytes_type!(
    /// Drawn by the challenger; said last.
    Secret, "a secret");
bytes_type!(
    /// What the rows are hashed with; said when all devices have computed.
    Salt, "a salt");
bytes_type!(
    /// What fixes salt and secret; said first.
    Commitment, "a commitment");

fn hash(label: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(label);
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize().into()
}

impl Secret {
    /// The salt that it fixes.
    #[must_use]
    pub fn salt(&self) -> Salt {
        Salt(hash(b"koinon challenge salt v1\0", &[&self.0]))
    }
}

impl Salt {
    /// The commitment that fixes it.
    #[must_use]
    pub fn commitment(&self) -> Commitment {
        Commitment(hash(b"koinon challenge commitment v1\0", &[&self.0]))
    }
}

/// Which rows of which device are looked at, all different, in the order in which their paths are given. `roots` are those of all
/// devices in their order.
#[must_use]
pub fn asked_rows(seed: &Seed, secret: &Secret, size: Size, roots: &[Node]) -> Vec<Vec<u32>> {
    let devices = u8::try_from(roots.len()).unwrap_or(u8::MAX);
    let said: Vec<u8> = roots.iter().flat_map(|root| root.0).collect();
    let chooser = hash(b"koinon challenge rows v1\0", &[&secret.0, &seed.0, &[devices], &said]);
    (0..devices).map(|device| rows_of(&chooser, device, size, rows_each(devices))).collect()
}

fn rows_of(chooser: &[u8; 32], device: u8, size: Size, count: usize) -> Vec<u32> {
    let (mut rows, mut seen) = (Vec::with_capacity(count), BTreeSet::new());
    // A size has more rows than are ever asked for, so this ends.
    for draw in 0u32.. {
        if rows.len() == count {
            break;
        }
        let drawn = hash(b"koinon challenge row choice v1\0", &[chooser, &[device], &draw.to_be_bytes()]);
        let [first, ..] = drawn.as_chunks::<8>().0 else { break };
        // 2^64 is so much more than the rows that the remainder prefers none noticeably.
        let row = u32::try_from(u64::from_be_bytes(*first) % u64::from(size.rows())).unwrap_or_default();
        if seen.insert(row) {
            rows.push(row);
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size() -> Size {
        Size::new(128, 64).unwrap()
    }

    #[test]
    fn rows_are_different_in_range_and_as_many_as_agreed() {
        for devices in 1..=16u8 {
            let roots: Vec<Node> = (0..devices).map(|n| Node([n; 16])).collect();
            let rows = asked_rows(&Seed([1; 32]), &Secret([2; 32]), size(), &roots);
            assert_eq!(rows.len(), usize::from(devices));
            for of_device in &rows {
                assert_eq!(of_device.iter().collect::<BTreeSet<_>>().len(), rows_each(devices));
                assert!(of_device.iter().all(|row| *row < 128));
            }
            assert!(rows.iter().map(Vec::len).sum::<usize>() <= 64, "{devices}");
        }
        assert_eq!(rows_each(8), 8);
        assert_eq!(rows_each(16), 4);
    }

    #[test]
    fn rows_follow_from_secret_seed_and_all_roots() {
        let roots = [Node([1; 16]), Node([2; 16])];
        let first = asked_rows(&Seed([1; 32]), &Secret([2; 32]), size(), &roots);
        assert_ne!(first[0], first[1], "two devices are asked for different rows");
        assert_ne!(first, asked_rows(&Seed([9; 32]), &Secret([2; 32]), size(), &roots));
        assert_ne!(first, asked_rows(&Seed([1; 32]), &Secret([9; 32]), size(), &roots));
        // The second device's root moves the first one's rows too: no device can be tried out alone.
        let other = asked_rows(&Seed([1; 32]), &Secret([2; 32]), size(), &[Node([1; 16]), Node([9; 16])]);
        assert_ne!(first[0], other[0]);
    }

    #[test]
    fn every_row_is_asked_for_about_equally_often() {
        let mut seen = [0u32; 128];
        for n in 0..512u32 {
            let mut secret = [0; 32];
            secret[..4].copy_from_slice(&n.to_be_bytes());
            for row in &asked_rows(&Seed([1; 32]), &Secret(secret), size(), &[Node([0; 16])])[0] {
                seen[*row as usize] += 1;
            }
        }
        // 32 each are expected; ten off would be nearly two standard deviations, so six are far out.
        assert!(seen.iter().all(|count| (8..=64).contains(count)), "{seen:?}");
    }

    #[test]
    fn the_three_are_different_and_fix_each_other() {
        let secret = Secret([7; 32]);
        assert_ne!(secret.0, secret.salt().0);
        assert_ne!(secret.salt().0, secret.salt().commitment().0);
        assert_ne!(secret.salt(), Secret([8; 32]).salt());
        assert_ne!(Salt([1; 32]).commitment(), Salt([2; 32]).commitment());
    }
}
