//! The numbers: what the matrices of a challenge hold, and any rows of their product.
//!
//! A word holds four whole numbers from -64 to 63, the seven high bits of each byte (so that four products fit 16 bits, which
//! halves the time of who checks). A word of A belongs to a row and four columns, a word of B to four rows and a
//! column, so one word of each makes four of the products of a sum: `dp4a` of NVIDIA's devices. A word is a mix of two keys:
//!
//! ```text
//!  A(i, q) = mix(aRow[i] ^ aColumn[q])      B(q, j) = mix(bRow[q] ^ bColumn[j])      C(i, j) = Σ_q A(i, q) · B(q, j)
//! ```
//!
//! The keys are words of SHA-256 over seed, device and index: few enough to be made on any processor and given to the device,
//! which then makes any word of either matrix with some ten instructions and keeps its memory for C. `mix` is `lowbias32`
//! of Chris Wellons' hash-prospector (public domain, <https://github.com/skeeto/hash-prospector>), a bijection of 32 bits that
//! changes every bit of its result with nearly half of all changes of one bit. The matrices have to be without structure that
//! would save multiplications; they need not be unpredictable to somebody who knows the seed.

use sha2::{Digest as _, Sha256};

use super::task::{Seed, Size};

/// Columns that are worked on at once: their words and sums stay in the processor's nearest cache.
const COLUMNS: usize = 512;

/// Which keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    RowsOfA,
    ColumnsOfA,
    RowsOfB,
    ColumnsOfB,
}

fn keys(seed: &Seed, device: u8, stream: Stream, count: u32) -> Vec<u32> {
    let blocks = (0..count.div_ceil(8)).flat_map(|block| {
        let mut hasher = Sha256::new();
        hasher.update(b"koinon challenge keys v1\0");
        hasher.update(seed.0);
        hasher.update([device, stream as u8]);
        hasher.update(block.to_be_bytes());
        let block: [u8; 32] = hasher.finalize().into();
        let words: Vec<u32> = block.as_chunks().0.iter().copied().map(u32::from_be_bytes).collect();
        words
    });
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    blocks.take(count).collect()
}

/// Everything from which a device makes its matrices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// For each row of A and of C.
    pub a_rows: Vec<u32>,
    /// For each word of a row of A.
    pub a_columns: Vec<u32>,
    /// For each word of a column of B.
    pub b_rows: Vec<u32>,
    /// For each column of B and of C.
    pub b_columns: Vec<u32>,
}

impl Keys {
    /// Those of one device: no two devices of a challenge have the same work.
    #[must_use]
    pub fn new(seed: &Seed, device: u8, size: Size) -> Self {
        let of = |stream, count| keys(seed, device, stream, count);
        Self {
            a_rows: of(Stream::RowsOfA, size.rows()),
            a_columns: of(Stream::ColumnsOfA, size.words()),
            b_rows: of(Stream::RowsOfB, size.words()),
            b_columns: of(Stream::ColumnsOfB, size.rows()),
        }
    }
}

/// `lowbias32`.
#[must_use]
pub fn mix(mut x: u32) -> u32 {
    x ^= x >> 16;
    x = x.wrapping_mul(0x7feb_352d);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

/// The four numbers of a word, the lowest byte first.
#[must_use]
pub fn numbers(word: u32) -> [i16; 4] {
    word.to_le_bytes().map(|byte| i16::from(byte.cast_signed() >> 1))
}

/// One sum, the slow way.
#[must_use]
pub fn sum(keys: &Keys, row: usize, column: usize) -> i32 {
    let words = keys.a_columns.iter().zip(&keys.b_rows);
    words
        .map(|(a, b)| {
            let a = numbers(mix(keys.a_rows[row] ^ a));
            let b = numbers(mix(b ^ keys.b_columns[column]));
            a.iter().zip(b).map(|(a, b)| i32::from(a * b)).sum::<i32>()
        })
        .sum()
}

/// Several rows of C of one device, computed together: the words of B are made once for all of them.
#[derive(Clone, Debug)]
pub struct Rows {
    b_rows: Vec<u32>,
    b_columns: Vec<u32>,
    /// For each row, its words of A as numbers.
    words: Vec<Vec<[i16; 4]>>,
    sums: Vec<Vec<i32>>,
    column: usize,
}

impl Rows {
    /// Nothing computed yet. Rows that the matrix does not have are left out.
    #[must_use]
    pub fn new(keys: &Keys, rows: &[u32]) -> Self {
        let keys_of_rows = rows.iter().filter_map(|row| keys.a_rows.get(usize::try_from(*row).ok()?));
        let words: Vec<Vec<[i16; 4]>> =
            keys_of_rows.map(|row| keys.a_columns.iter().map(|column| numbers(mix(row ^ column))).collect()).collect();
        let sums = vec![vec![0; keys.b_columns.len()]; words.len()];
        Self { b_rows: keys.b_rows.clone(), b_columns: keys.b_columns.clone(), words, sums, column: 0 }
    }

    /// Goes on with the next columns, 512 at most. Returns false once all are done.
    pub fn step(&mut self) -> bool {
        let end = self.b_columns.len().min(self.column + COLUMNS);
        let columns = &self.b_columns[self.column..end];
        // One plane for each of the four numbers of a word: what compilers turn into instructions on many numbers at once.
        let [mut b0, mut b1, mut b2, mut b3] = [[0i16; COLUMNS]; 4];
        for (q, key) in self.b_rows.iter().enumerate() {
            let planes = b0.iter_mut().zip(&mut b1).zip(b2.iter_mut().zip(&mut b3));
            for (column, ((b0, b1), (b2, b3))) in columns.iter().zip(planes) {
                [*b0, *b1, *b2, *b3] = numbers(mix(key ^ column));
            }
            for (words, sums) in self.words.iter().zip(&mut self.sums) {
                let [a0, a1, a2, a3] = words[q];
                let planes = b0.iter().zip(&b1).zip(b2.iter().zip(&b3));
                for (sum, ((b0, b1), (b2, b3))) in sums[self.column..end].iter_mut().zip(planes) {
                    *sum += i32::from(b0 * a0 + b1 * a1 + b2 * a2 + b3 * a3);
                }
            }
        }
        self.column = end;
        end < self.b_columns.len()
    }

    /// How many steps all of it takes.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.b_columns.len().div_ceil(COLUMNS)
    }

    /// The sums of each row, in the order of `rows`; those of columns that no step has reached are 0.
    #[must_use]
    pub fn into_sums(self) -> Vec<Vec<i32>> {
        self.sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(keys: &Keys, rows: &[u32]) -> Vec<Vec<i32>> {
        let mut computed = Rows::new(keys, rows);
        while computed.step() {}
        computed.into_sums()
    }

    #[test]
    fn rows_are_the_sums_of_their_products() {
        let size = Size::new(640, 64).unwrap();
        let keys = Keys::new(&Seed([7; 32]), 3, size);
        let asked = [0, 5, 127, 128, 511, 512, 639];
        let rows = all(&keys, &asked);
        for (row, sums) in asked.iter().zip(&rows) {
            assert_eq!(sums.len(), 640);
            for column in [0, 1, 127, 128, 511, 512, 513, 639] {
                assert_eq!(sums[column], sum(&keys, *row as usize, column), "{row} {column}");
            }
        }
        assert!(Rows::new(&keys, &[640]).into_sums().is_empty());
    }

    #[test]
    fn devices_seeds_and_matrices_have_their_own_keys() {
        let size = Size::new(128, 512).unwrap();
        let keys = Keys::new(&Seed([7; 32]), 0, size);
        assert_eq!((keys.a_rows.len(), keys.a_columns.len()), (128, 128));
        let streams = [&keys.a_rows, &keys.a_columns, &keys.b_rows, &keys.b_columns];
        for (n, one) in streams.iter().enumerate() {
            assert!(streams[n + 1..].iter().all(|other| one != other));
        }
        assert_ne!(keys, Keys::new(&Seed([7; 32]), 1, size));
        assert_ne!(keys, Keys::new(&Seed([8; 32]), 0, size));
    }

    /// Computed with another program: these bytes are what every member must agree on.
    #[test]
    fn the_numbers_stay_what_they_are() {
        assert_eq!([mix(0), mix(1), mix(0xffff_ffff)], VECTORS_OF_MIX);
        assert_eq!(numbers(0x80ff_017f), [63, 0, -1, -64]);
        let keys = Keys::new(&Seed([7; 32]), 3, Size::new(128, 64).unwrap());
        assert_eq!(keys.b_columns[..2], VECTORS_OF_KEYS);
        assert_eq!([sum(&keys, 0, 0), sum(&keys, 127, 126)], VECTORS_OF_SUMS);
    }
    const VECTORS_OF_MIX: [u32; 3] = [0x0, 0x688990c0, 0x6768824a];
    const VECTORS_OF_KEYS: [u32; 2] = [0xfd2117c6, 0xf3d537ec];
    const VECTORS_OF_SUMS: [i32; 2] = [10405, -5062];
}
