//! The Merkle tree of RFC 6962 over statement ids: one digest for the content of a ballot box.

use std::collections::BTreeSet;

use sha2::{Digest as _, Sha256};

use crate::ids::{BoxRoot, Digest, StatementId};

/// The root over `ids` in their order. Leaves and nodes are hashed apart, so that neither passes for the other.
pub fn root(ids: &BTreeSet<StatementId>) -> BoxRoot {
    let leaves: Vec<[u8; 32]> = ids.iter().map(|id| hash(&[&[0], &id.0.0])).collect();
    BoxRoot(Digest(subtree(&leaves)))
}

fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize().into()
}

fn subtree(leaves: &[[u8; 32]]) -> [u8; 32] {
    match leaves {
        [] => hash(&[]),
        [leaf] => *leaf,
        _ => {
            // The largest power of two that leaves something for the right side.
            let (left, right) = leaves.split_at(leaves.len().div_ceil(2).next_power_of_two());
            hash(&[&[1], &subtree(left), &subtree(right)])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(count: u8) -> BTreeSet<StatementId> {
        (0..count).map(|n| StatementId(Digest([n; 32]))).collect()
    }

    /// Splits as the RFC words it, to hold the power of two above against it.
    fn naive(leaves: &[[u8; 32]]) -> [u8; 32] {
        if leaves.len() < 2 {
            return leaves.first().copied().unwrap_or_else(|| hash(&[]));
        }
        let mut k = 1;
        while k * 2 < leaves.len() {
            k *= 2;
        }
        hash(&[&[1], &naive(&leaves[..k]), &naive(&leaves[k..])])
    }

    #[test]
    fn trees_are_split_as_the_rfc_says() {
        for count in 0..70 {
            let leaves: Vec<_> = ids(count).iter().map(|id| hash(&[&[0], &id.0.0])).collect();
            assert_eq!(root(&ids(count)).0.0, naive(&leaves), "{count}");
        }
    }

    #[test]
    fn the_empty_box_is_the_digest_of_nothing() {
        assert_eq!(root(&ids(0)).0, Digest::of(b""));
    }
}
