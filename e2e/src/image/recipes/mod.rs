//! What is in each image.

mod busybox;
mod challenge;
mod koinon;
mod llama;
mod pause;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};

pub use busybox::busybox;
pub use challenge::challenge;
pub use koinon::{koinon, programs};
pub use llama::llama_cpp;
pub use pause::pause;

/// The user of every image of ours: not root, and not one that a machine has.
const USER: &str = "65532:65532";

/// Copies a file that everybody may run, making the folders above it.
fn copy_program(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    fs::copy(from, to).with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).with_context(|| format!("protecting {}", to.display()))
}

/// Accounts, name lookup and a place for temporary files: what a program expects to find on any system.
fn add_system_files(root: &Path) -> Result<()> {
    let etc = root.join("etc");
    fs::create_dir_all(&etc)?;
    fs::write(
        etc.join("passwd"),
        "root:x:0:0:root:/root:/sbin/nologin\nkoinon:x:65532:65532:koinon:/tmp:/sbin/nologin\n",
    )?;
    fs::write(etc.join("group"), "root:x:0:\nkoinon:x:65532:\n")?;
    fs::write(etc.join("nsswitch.conf"), "hosts: files dns\n")?;
    let tmp = root.join("tmp");
    fs::create_dir_all(&tmp)?;
    fs::set_permissions(&tmp, fs::Permissions::from_mode(0o1777)).context("opening /tmp of the image to everybody")
}
