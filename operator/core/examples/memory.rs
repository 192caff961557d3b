//! What an operator that holds a long history holds in memory, with all of it and after a checkpoint has settled it:
//! `cargo run --release --features testkit --example memory [ENTRIES]`.

// It runs by hand on Linux, and says what it does not find.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::path::Path;
use std::process::Command;

use koinon_core::dsse::Envelope;
use koinon_core::founding::Founding;
use koinon_core::log::{Limits, Recollection, Settled};
use koinon_core::policy::Commons;
use koinon_core::statement::Statement;
use koinon_core::testkit::history::settled;

/// A line of /proc/self/status in bytes.
fn status(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Writes what a store would hold, and lets two processes of their own read it.
fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["all", folder] => hold(Path::new(folder), false),
        ["settled", folder] => hold(Path::new(folder), true),
        _ => {
            let wanted = arguments.first().map_or(100_000, |text| text.parse().unwrap());
            let folder = std::env::temp_dir().join(format!("koinon-memory-{}", std::process::id()));
            std::fs::create_dir(&folder).unwrap();
            write(&folder, wanted);
            for what in ["all", "settled"] {
                let program = std::env::current_exe().unwrap();
                assert!(Command::new(program).arg(what).arg(&folder).status().unwrap().success());
            }
            std::fs::remove_dir_all(&folder).unwrap();
        }
    }
}

fn write(folder: &Path, wanted: usize) {
    let past = settled(10, wanted);
    let mut file = BufWriter::new(std::fs::File::create(folder.join("entries")).unwrap());
    for entry in &past.entries {
        file.write_all(&entry.envelope().to_json()).unwrap();
        file.write_all(b"\n").unwrap();
    }
    file.flush().unwrap();
    std::fs::write(folder.join("charter"), past.founding.statement().envelope().to_json()).unwrap();
    let (mut commons, _) = Commons::load(past.founding, Limits::NONE, past.entries);
    let remains = commons.forget_settled().unwrap();
    std::fs::write(folder.join("settled"), serde_json::to_vec(&*remains).unwrap()).unwrap();
}

fn hold(folder: &Path, forget: bool) {
    let charter = Envelope::from_json(&std::fs::read(folder.join("charter")).unwrap()).unwrap();
    let founding = Founding::verify(charter).unwrap();
    let remains = std::fs::read(folder.join("settled")).unwrap();
    let mut recollection =
        if forget { Some(Recollection::new(serde_json::from_slice::<Settled>(&remains).unwrap())) } else { None };
    let before = status("VmRSS:");
    let (mut later, mut entries, mut written) = (Vec::new(), 0_u64, 0_u64);
    for line in BufReader::new(std::fs::File::open(folder.join("entries")).unwrap()).split(b'\n') {
        let line = line.unwrap();
        (entries, written) = (entries + 1, written + line.len() as u64);
        let statement = Statement::from_json(&line).unwrap();
        later.extend(match &mut recollection {
            Some(recollection) => recollection.take(statement),
            None => Some(statement),
        });
    }
    let commons = match recollection {
        Some(recollection) => Commons::recall(founding, Limits::NONE, recollection, later).unwrap().0,
        None => Commons::load(founding, Limits::NONE, later).0,
    };
    let replica = commons.replica();
    let held: usize = replica.logs().map(|(log, _)| replica.all(log).count()).sum();
    let (after, most) = (status("VmRSS:") - before, status("VmHWM:") - before);
    println!(
        "{entries} entries of {} bytes, {held} of them held, {} bytes noted of the rest: {} KiB resident, {} KiB at most while \
         they were read, {} bytes an entry",
        written / entries,
        if forget { remains.len() } else { 0 },
        after / 1024,
        most / 1024,
        after / entries
    );
}
