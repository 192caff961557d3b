//! The digests of a matrix: one for each row under the salt, one over them all.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use super::secret::Salt;
pub use super::task::Node;
use crate::ids::{IdError, as_string};

/// Levels of the highest tree: 2^18 rows.
const MAX_HEIGHT: usize = 18;

/// What stands before a row when it is hashed: one block of SHA-256, so that a device can go on from it word by word.
#[must_use]
pub fn row_prefix(salt: &Salt, device: u8, row: u32) -> [u8; 64] {
    let mut prefix = [0; 64];
    prefix[..24].copy_from_slice(b"koinon challenge row v1\0");
    prefix[24..56].copy_from_slice(&salt.0);
    prefix[56..60].copy_from_slice(&u32::from(device).to_be_bytes());
    prefix[60..].copy_from_slice(&row.to_be_bytes());
    prefix
}

/// The digest of a row: its sums in the order of the columns, each as four bytes, the highest first, as SHA-256 reads words.
#[must_use]
pub fn leaf(salt: &Salt, device: u8, row: u32, sums: &[i32]) -> Node {
    let mut hasher = Sha256::new();
    hasher.update(row_prefix(salt, device, row));
    let mut piece = [0; 4096];
    for part in sums.chunks(piece.len() / 4) {
        let bytes = &mut piece[..4 * part.len()];
        for (bytes, sum) in bytes.chunks_exact_mut(4).zip(part) {
            bytes.copy_from_slice(&sum.to_be_bytes());
        }
        hasher.update(bytes);
    }
    half(&hasher.finalize().into())
}

fn half(digest: &[u8; 32]) -> Node {
    let mut node = [0; 16];
    node.copy_from_slice(&digest[..16]);
    Node(node)
}

fn join(left: &Node, right: &Node) -> Node {
    let mut hasher = Sha256::new();
    hasher.update(b"koinon challenge node v1\0");
    hasher.update(left.0);
    hasher.update(right.0);
    half(&hasher.finalize().into())
}

/// A tree over the digests of all rows. A node without a neighbour rises unchanged, so the tree has the shape of RFC 6962.
#[derive(Clone, Debug)]
pub struct Tree {
    levels: Vec<Vec<Node>>,
}

impl Tree {
    /// Over `leaves` in the order of their rows; none if there are none.
    #[must_use]
    pub fn new(leaves: Vec<Node>) -> Option<Self> {
        let mut levels = vec![leaves];
        while let Some(last) = levels.last().filter(|last| last.len() > 1) {
            let next = last
                .chunks(2)
                .filter_map(|pair| match pair {
                    [left, right] => Some(join(left, right)),
                    [alone] => Some(*alone),
                    _ => None,
                })
                .collect();
            levels.push(next);
        }
        (!levels[0].is_empty()).then_some(Self { levels })
    }

    /// The digest of all.
    #[must_use]
    pub fn root(&self) -> Node {
        self.levels.last().and_then(|top| top.first()).copied().unwrap_or(Node([0; 16]))
    }

    /// What leads from the digest of `row` to the root; none if there is no such row.
    #[must_use]
    pub fn path(&self, row: u32) -> Option<Path> {
        let mut at = usize::try_from(row).ok()?;
        self.levels[0].get(at)?;
        let mut nodes = Vec::new();
        for level in &self.levels {
            nodes.extend(level.get(at ^ 1));
            at /= 2;
        }
        Some(Path(nodes))
    }
}

/// The neighbours on the way from a row to the root, lowest first; written in base64.
#[derive(Clone, PartialEq, Eq)]
pub struct Path(Vec<Node>);

impl Path {
    /// The root to which a row with this digest leads in a tree of so many rows; none if the path is not as long as it must be.
    #[must_use]
    pub fn root(&self, leaf: Node, row: u32, rows: u32) -> Option<Node> {
        let (mut node, mut at, mut width) = (leaf, row, rows);
        let mut left = self.0.iter();
        if at >= width {
            return None;
        }
        while width > 1 {
            if at ^ 1 < width {
                let neighbour = left.next()?;
                node = if at % 2 == 0 { join(&node, neighbour) } else { join(neighbour, &node) };
            }
            at /= 2;
            width = width.div_ceil(2);
        }
        left.next().is_none().then_some(node)
    }

    /// Whether it has the length that the path of `row` has in a tree of `rows`.
    #[must_use]
    pub fn fits(&self, row: u32, rows: u32) -> bool {
        let (mut at, mut width, mut length) = (row, rows, 0);
        while width > 1 {
            length += usize::from(at ^ 1 < width);
            at /= 2;
            width = width.div_ceil(2);
        }
        row < rows && self.0.len() == length
    }
}

impl FromStr for Path {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = || IdError::new("a path", "must be base64 of at most 18 nodes of 16 bytes", text);
        if text.len() > MAX_HEIGHT * 16 * 4 / 3 {
            return Err(wrong());
        }
        let bytes = STANDARD.decode(text).map_err(|_| wrong())?;
        let (nodes, rest) = bytes.as_chunks();
        if !rest.is_empty() {
            return Err(wrong());
        }
        Ok(Self(nodes.iter().map(|node| Node(*node)).collect()))
    }
}
impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: Vec<u8> = self.0.iter().flat_map(|node| node.0).collect();
        f.write_str(&STANDARD.encode(bytes))
    }
}
as_string!(Path);

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(count: u32) -> Vec<Node> {
        (0..count).map(|n| leaf(&Salt([3; 32]), 0, n, &[n.cast_signed()])).collect()
    }

    #[test]
    fn every_row_leads_to_the_root_and_no_other_digest_does() {
        for count in [1, 2, 3, 5, 8, 127, 128, 129, 384] {
            let tree = Tree::new(leaves(count)).unwrap();
            for row in 0..count {
                let path = tree.path(row).unwrap();
                let right = leaves(count)[row as usize];
                assert!(path.fits(row, count));
                assert_eq!(path.root(right, row, count), Some(tree.root()), "{row} of {count}");
                assert_ne!(path.root(Node([0; 16]), row, count), Some(tree.root()));
                let other = (row + 1) % count;
                if other != row {
                    assert_ne!(path.root(right, other, count), Some(tree.root()), "{row} shown as {other} of {count}");
                }
            }
            assert!(tree.path(count).is_none());
        }
        assert!(Tree::new(Vec::new()).is_none());
    }

    #[test]
    fn a_path_of_another_length_leads_nowhere() {
        let tree = Tree::new(leaves(128)).unwrap();
        let mut path = tree.path(5).unwrap();
        assert_eq!(path.0.len(), 7);
        path.0.push(Node([0; 16]));
        assert!(!path.fits(5, 128));
        assert_eq!(path.root(leaves(128)[5], 5, 128), None);
        path.0.truncate(6);
        assert!(!path.fits(5, 128));
        assert_eq!(path.root(leaves(128)[5], 5, 128), None);
        assert!(!path.fits(200, 128));
        assert_eq!(path.root(leaves(128)[5], 200, 128), None);
    }

    #[test]
    fn a_digest_is_that_of_one_row_of_one_device_under_one_salt() {
        let of = |salt: u8, device, row, sums: &[i32]| leaf(&Salt([salt; 32]), device, row, sums);
        let right = of(1, 2, 3, &[4, 5]);
        for other in [of(9, 2, 3, &[4, 5]), of(1, 9, 3, &[4, 5]), of(1, 2, 9, &[4, 5]), of(1, 2, 3, &[5, 4])] {
            assert_ne!(right, other);
        }
    }

    #[test]
    fn rows_longer_than_a_piece_are_hashed_as_one() {
        let sums: Vec<i32> = (0..3000).collect();
        let mut whole = row_prefix(&Salt([1; 32]), 0, 7).to_vec();
        whole.extend(sums.iter().flat_map(|sum| sum.to_be_bytes()));
        assert_eq!(leaf(&Salt([1; 32]), 0, 7, &sums), half(&Sha256::digest(whole).into()));
    }

    #[test]
    fn paths_are_written_and_read_alike_and_long_ones_refused() {
        let path = Tree::new(leaves(384)).unwrap().path(300).unwrap();
        assert_eq!(path.to_string().parse::<Path>().unwrap(), path);
        assert_eq!("".parse::<Path>().unwrap(), Path(Vec::new()));
        let long = |count| STANDARD.encode(vec![0; count]);
        assert!(long(18 * 16).parse::<Path>().is_ok());
        for wrong in [long(19 * 16), long(17), "?".to_owned(), long(1 << 20)] {
            assert!(wrong.parse::<Path>().is_err());
        }
    }
}
