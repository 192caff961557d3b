//! NVIDIA GPUs, through the driver's own library: no CUDA toolkit is needed where the engine runs.
//!
//! The kernels stand in `kernel/challenge.cu`; the PTX made of them is in the program, and the driver compiles it for its GPUs.
//! The memory that the matrix takes is the GPU's: what the driver would swap out to the host is not asked for.

mod driver;

use std::sync::Arc;

use koinon_core::challenge::matrix::Keys;
use koinon_core::challenge::tree::{Node, row_prefix};
use koinon_core::challenge::{Salt, Size, Task};
use koinon_core::ids::Bytes;

use crate::device::{Device, DeviceError};
pub use driver::OpenError;
use driver::{Context, Driver, Function, Memory};

/// The kernels, ended by a zero as the driver expects.
const PTX: &str = concat!(include_str!("../kernel/challenge.ptx"), "\0");

/// Threads of a block of the kernel `product`, and those of `digest`.
const PRODUCT_THREADS: u32 = 256;
const DIGEST_THREADS: u32 = 128;

/// Multiply-adds of one launch: half a second or so of a data centre's GPU, so that the driver never takes a GPU that has a display
/// for hung, and another process on it is not shut out for long.
const LAUNCH_WORK: u64 = 10_000_000_000_000;

/// Opens the driver's library and every GPU that this process may use.
///
/// # Errors
/// There is no library, no GPU, or the driver refuses.
pub fn open() -> Result<Vec<Gpu>, OpenError> {
    let driver = Arc::new(Driver::open()?);
    (0..driver.count()?).map(|ordinal| Gpu::open(&driver, ordinal)).collect()
}

/// One GPU.
pub struct Gpu {
    // Before the context, so that it is dropped while that lives.
    held: Option<(Size, Memory)>,
    context: Context,
    product: Function,
    digest: Function,
}

impl Gpu {
    fn open(driver: &Arc<Driver>, ordinal: u32) -> Result<Self, OpenError> {
        let context = Context::open(driver, ordinal)?;
        let module = context.load(PTX)?;
        let (product, digest) = (context.function(module, c"product")?, context.function(module, c"digest")?);
        Ok(Self { context, product, digest, held: None })
    }

    fn upload(&self, words: &[u32]) -> Result<Memory, DeviceError> {
        let memory = self.context.allocate(4 * u64::try_from(words.len()).unwrap_or(u64::MAX))?;
        self.context.write(&memory, words)?;
        Ok(memory)
    }
}

impl Device for Gpu {
    fn name(&self) -> String {
        self.context.name().to_owned()
    }

    fn memory(&self) -> Bytes {
        Bytes(self.context.memory())
    }

    fn compute(&mut self, task: &Task, index: u8) -> Result<(), DeviceError> {
        self.forget();
        self.context.enter()?;
        let size = task.size;
        let keys = Keys::new(&task.seed, index, size);
        let [a_rows, a_columns, b_rows, b_columns] =
            [&keys.a_rows, &keys.a_columns, &keys.b_rows, &keys.b_columns].map(|words| self.upload(words));
        let (a_rows, a_columns, b_rows, b_columns) = (a_rows?, a_columns?, b_rows?, b_columns?);
        let matrix = self.context.allocate(size.memory().0)?;
        let tiles = size.rows() / Size::TILE;
        let band = columns_of_tiles(size);
        for first in (0..tiles).step_by(usize::try_from(band).unwrap_or(1)) {
            let grid = (tiles, band.min(tiles - first));
            self.context.launch(
                &self.product,
                grid,
                PRODUCT_THREADS,
                &[
                    a_rows.argument(),
                    a_columns.argument(),
                    b_rows.argument(),
                    b_columns.argument(),
                    u64::from(size.rows()),
                    u64::from(size.words()),
                    u64::from(first),
                    matrix.argument(),
                ],
            )?;
        }
        self.held = Some((size, matrix));
        Ok(())
    }

    fn digest(&mut self, salt: &Salt, index: u8) -> Result<Vec<Node>, DeviceError> {
        let Some((size, matrix)) = &self.held else { return Err(DeviceError::Nothing(self.name())) };
        self.context.enter()?;
        let head = self.upload(&head(salt, index))?;
        let rows = size.rows();
        let leaves = self.context.allocate(16 * u64::from(rows))?;
        let arguments = [head.argument(), matrix.argument(), u64::from(rows), leaves.argument()];
        self.context.launch(&self.digest, (rows.div_ceil(DIGEST_THREADS), 1), DIGEST_THREADS, &arguments)?;
        let mut words = vec![0; 4 * usize::try_from(rows).unwrap_or_default()];
        self.context.read(&leaves, &mut words)?;
        Ok(words.as_chunks().0.iter().map(node).collect())
    }

    fn forget(&mut self) {
        self.held = None;
    }
}

/// The columns of tiles that one launch makes.
fn columns_of_tiles(size: Size) -> u32 {
    let column = size.row_work() * u64::from(Size::TILE);
    u32::try_from(LAUNCH_WORK / column).unwrap_or(u32::MAX).clamp(1, size.rows() / Size::TILE)
}

/// What every row's digest begins with, as words, without the row's number.
#[must_use]
pub fn head(salt: &Salt, index: u8) -> [u32; 15] {
    let prefix = row_prefix(salt, index, 0);
    let mut words = [0; 15];
    for (word, bytes) in words.iter_mut().zip(prefix.as_chunks().0) {
        *word = u32::from_be_bytes(*bytes);
    }
    words
}

/// A digest from the words in which the kernel leaves it.
#[must_use]
pub fn node(words: &[u32; 4]) -> Node {
    let mut bytes = [0; 16];
    for (bytes, word) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
        *bytes = word.to_be_bytes();
    }
    Node(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launches_are_bounded_and_make_every_column() {
        let of = |rows, depth| columns_of_tiles(Size::new(rows, depth).unwrap());
        assert_eq!(of(128, 64), 1);
        assert_eq!(of(4096, 1024), 32, "all at once");
        assert_eq!(of(139_008, 32_768), 17);
        assert_eq!(of(Size::MAX_ROWS, Size::MAX_DEPTH), 4);
    }
}
