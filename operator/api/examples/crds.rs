//! Writes the definitions below the current folder. `cargo xtask generate` runs it; on its own it builds while nothing else does.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for (path, text) in koinon_api::crd::files()? {
        if let Some(folder) = std::path::Path::new(&path).parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(path, text)?;
    }
    Ok(())
}
