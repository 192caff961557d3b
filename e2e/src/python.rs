//! Python programs and libraries from PyPI, pinned by hash, in a virtual environment in the cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::cache::{Cache, Key};
use crate::command;
use crate::toolchain::{Report, ensure_python};

/// A Python with the libraries of one requirements file.
#[derive(Debug, Clone)]
pub struct Python {
    program: PathBuf,
}

impl Python {
    /// A Python with nothing but pip.
    pub fn ensure(cache: &Cache, report: Report<'_>) -> Result<Self> {
        Self::with(cache, None, report)
    }

    /// A Python with what a requirements file lists; each line must have hashes.
    pub fn with_requirements(cache: &Cache, requirements: &Path, report: Report<'_>) -> Result<Self> {
        Self::with(cache, Some(requirements), report)
    }

    fn with(cache: &Cache, requirements: Option<&Path>, report: Report<'_>) -> Result<Self> {
        ensure_python(report)?;
        // A virtual environment names its own interpreter: another Python needs another environment.
        let version = command::words("/usr/bin/python3 --version").or_else(|_| command::words("python3 --version"))?;
        let listed = match requirements {
            Some(path) => fs::read(path).with_context(|| format!("reading {}", path.display()))?,
            None => Vec::new(),
        };
        let key = Key::of([("python", version.as_bytes()), ("requirements", listed.as_slice())]);
        let entry = cache.get_or_make("python", &key, |draft| {
            report("making a Python environment");
            let env = draft.join("env");
            let interpreter = if Path::new("/usr/bin/python3").exists() { "/usr/bin/python3" } else { "python3" };
            command::run(Command::new(interpreter).args(["-m", "venv", "--copies"]).arg(&env))?;
            if let Some(path) = requirements {
                Self { program: env.join("bin/python3") }.pip(path, &[])?;
            }
            Ok(())
        })?;
        // Only the scripts beside the interpreter hold the path at which it was made; nothing here uses them.
        Ok(Self { program: entry.join("env/bin/python3") })
    }

    /// The interpreter.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Unpacks what a requirements file lists into a folder, for an image.
    pub fn install(&self, requirements: &Path, target: &Path) -> Result<()> {
        self.pip(requirements, &["--target".as_ref(), target.as_os_str()])
    }

    fn pip(&self, requirements: &Path, more: &[&std::ffi::OsStr]) -> Result<()> {
        let mut pip = Command::new(&self.program);
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-compile",
            "--only-binary=:all:",
        ]);
        pip.args(["--no-deps", "--require-hashes", "--requirement"]).arg(requirements).args(more);
        command::run(&mut pip).map(drop)
    }
}
