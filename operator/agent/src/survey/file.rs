//! Which file was loaded as NVML: a dishonest node may put any library in its place, so the agent says which one answered.

use std::path::{Path, PathBuf};

/// The longest path that a kernel takes.
const MAX_PATH: usize = 4096;

/// The file that this process has loaded under the name or path `asked`; none if that cannot be told.
pub(super) fn loaded(asked: &Path) -> Option<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let given = asked.components().nth(1).and_then(|_| asked.canonicalize().ok());
    mapped(&maps, asked, given.as_deref())
}

/// Of the files in `maps` the one at `given`, or, where only a name was asked for, the one of that name and any version.
fn mapped(maps: &str, asked: &Path, given: Option<&Path>) -> Option<String> {
    let (stem, _) = asked.file_name()?.to_str()?.split_once(".so")?;
    let begins = format!("{stem}.so");
    // Five columns stand before the path, which may itself hold spaces.
    let mut files = maps.lines().filter_map(|line| line.find('/').and_then(|at| line.get(at..)));
    let file = files.find(|file| match given {
        Some(given) => Path::new(file) == given,
        None => {
            PathBuf::from(file).file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(&begins))
        }
    })?;
    (file.len() <= MAX_PATH).then(|| file.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "7f00-7f01 r-xp 00000000 08:01 11 /usr/lib/libc.so.6\n\
        7f02-7f03 r-xp 00000000 08:01 12 /usr/lib/x86_64-linux-gnu/libnvidia-ml.so.580.95.05\n\
        7f04-7f05 rw-p 00000000 00:00 0 [heap]\n\
        7f06-7f07 r-xp 00000000 08:01 13 /opt/my driver/libfake.so";

    #[test]
    fn the_file_behind_a_name_is_told_with_its_version_and_that_at_a_path_as_it_is() {
        let by_name = |name: &str| mapped(MAPS, Path::new(name), None);
        assert_eq!(
            by_name("libnvidia-ml.so.1").as_deref(),
            Some("/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.580.95.05")
        );
        assert_eq!(by_name("libnvidia-ml2.so.1"), None);
        assert_eq!(by_name("nonsense"), None);
        let path = Path::new("/opt/my driver/libfake.so");
        assert_eq!(mapped(MAPS, path, Some(path)).as_deref(), Some("/opt/my driver/libfake.so"));
        assert_eq!(mapped(MAPS, Path::new("/opt/libfake.so"), Some(Path::new("/opt/libfake.so"))), None);
    }
}
