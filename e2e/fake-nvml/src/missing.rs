//! Copies of the library in which one symbol cannot be found, as in a library that is older than its client.

use std::path::{Path, PathBuf};

use object::{Object, ObjectSection};

use crate::SYMBOLS;

/// Where the dynamic linker finds the names of exported symbols.
const NAMES: &str = ".dynstr";

/// Why a symbol cannot be taken away.
#[derive(Debug, thiserror::Error)]
pub enum MissingError {
    /// The library does not export it.
    #[error("hiding {0}: name a symbol that the library exports")]
    NotExported(String),
    /// The file is not there, or not readable, or the copy cannot be written.
    #[error("copying {from} to {into} without a symbol: {reason}", from = from.display(), into = into.display())]
    File {
        /// The library.
        from: PathBuf,
        /// The copy.
        into: PathBuf,
        /// What the system said.
        reason: std::io::Error,
    },
    /// Not a shared library that exports the symbol.
    #[error("hiding {symbol} in {path}: {reason}; build the library with cargo", path = path.display())]
    NoLibrary {
        /// The symbol.
        symbol: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Writes a copy of the built `library` to the file `into`, in which the dynamic linker does not find `symbol` and still finds
/// every other.
///
/// The name in the table of names gets another first letter. The hash table then still leads to the symbol, whose name no
/// longer is the one that is asked for.
pub fn without_symbol(library: &Path, symbol: &str, into: &Path) -> Result<(), MissingError> {
    if !SYMBOLS.contains(&symbol) {
        return Err(MissingError::NotExported(symbol.to_owned()));
    }
    let file = |reason| MissingError::File { from: library.to_owned(), into: into.to_owned(), reason };
    let unfit = |reason: &dyn ToString| MissingError::NoLibrary {
        symbol: symbol.to_owned(),
        path: library.to_owned(),
        reason: reason.to_string(),
    };
    let mut bytes = std::fs::read(library).map_err(file)?;
    let place = {
        let parsed = object::File::parse(bytes.as_slice()).map_err(|error| unfit(&error))?;
        let names = parsed.section_by_name(NAMES).ok_or_else(|| unfit(&"it has no names of dynamic symbols"))?;
        let (start, _) = names.file_range().ok_or_else(|| unfit(&"its names are not in the file"))?;
        let names = names.data().map_err(|error| unfit(&error))?;
        // Between two zeros: the name of no symbol contains another's, but text beside the names may.
        let whole = [b"\0", symbol.as_bytes(), b"\0"].concat();
        let offset = names.windows(whole.len()).position(|window| window == whole);
        let offset = offset.ok_or_else(|| unfit(&"it does not export the symbol"))?;
        usize::try_from(start).ok().and_then(|start| start.checked_add(offset)?.checked_add(1))
    };
    let first = place.and_then(|place| bytes.get_mut(place)).ok_or_else(|| unfit(&"its names are not in the file"))?;
    *first = b'x';
    std::fs::write(into, bytes).map_err(file)
}
