//! What was asked of the library and how it answered, without a single value: it may be shown to anybody.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// One line a call: `symbol return size`. The size is that of the struct or buffer that was to be filled, in bytes; a symbol
/// that the library lacks returns `absent`.
pub(in crate::survey) struct Trace(RefCell<Option<File>>);

impl Trace {
    /// None is written.
    pub(in crate::survey) fn off() -> Self {
        Self(RefCell::new(None))
    }

    /// Written anew to a file.
    pub(in crate::survey) fn to(path: &Path) -> io::Result<Self> {
        Ok(Self(RefCell::new(Some(File::create(path)?))))
    }

    pub(super) fn returned(&self, symbol: &str, code: u32, size: usize) {
        self.line(format_args!("{symbol} {code} {size}\n"));
    }

    pub(super) fn absent(&self, symbol: &str, size: usize) {
        self.line(format_args!("{symbol} absent {size}\n"));
    }

    fn line(&self, line: std::fmt::Arguments<'_>) {
        let mut file = self.0.borrow_mut();
        // At once, so that the last line is the call in which the library hung or crashed.
        if let Some(open) = file.as_mut()
            && let Err(error) = open.write_all(line.to_string().as_bytes())
        {
            eprintln!("writing the trace of NVML's calls: {error}");
            *file = None;
        }
    }
}
