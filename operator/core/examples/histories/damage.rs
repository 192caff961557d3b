//! Bundles that do not hold.

use serde_json::{Value, json};

use crate::random::Random;

/// The lines as a file; every fourth is damaged in one place.
pub fn perhaps(random: &mut Random, mut lines: Vec<Vec<u8>>) -> Vec<u8> {
    if random.once_in(4) {
        damage(random, &mut lines);
    }
    lines.join(&b'\n')
}

fn damage(random: &mut Random, lines: &mut Vec<Vec<u8>>) {
    let last = lines.len().saturating_sub(1);
    let somewhere = random.below(lines.len());
    match random.below(16) {
        0 => drop(lines.remove(somewhere)),
        1 => lines.insert(random.below(lines.len()), lines[somewhere].clone()),
        2 => lines.swap(somewhere, last),
        3 => lines.truncate(somewhere.max(1)),
        4 => lines.swap(somewhere, somewhere.saturating_sub(1)),
        5 => edit(&mut lines[last], |end| end["end"]["entries"] = json!(random.below(50))),
        6 => edit(&mut lines[last], |end| {
            let name = ["membership", "releases", "engines", "charter"][random.below(4)];
            end["end"]["policy"][name] = json!(format!("sha256:{}", "0".repeat(64)));
        }),
        7 => edit(&mut lines[last], |end| end["end"]["policy"] = json!({})),
        8 => edit(&mut lines[last], |end| {
            let logs = end["end"]["logs"].as_object_mut();
            let log = logs.as_ref().and_then(|logs| logs.keys().next().cloned());
            if let (Some(logs), Some(log)) = (logs, log) {
                logs.remove(&log);
            }
        }),
        9 => edit(&mut lines[0], |first| first["founding"]["format"] = json!(2)),
        10 => edit(&mut lines[0], |first| first["founding"]["coop"] = json!(format!("sha256:{}", "1".repeat(64)))),
        11 => edit(&mut lines[somewhere], |line| {
            // Whatever is signed there loses its first signature, or swaps it for another's.
            let name = if line["entry"].is_null() { "/founding/charter/signatures" } else { "/entry/signatures" };
            if let Some(Value::Array(signatures)) = line.pointer_mut(name) {
                signatures.remove(0);
            }
        }),
        12 => cut_end(random, lines, last),
        _ => flip(random, &mut lines[somewhere]),
    }
}

fn edit(line: &mut Vec<u8>, change: impl FnOnce(&mut Value)) {
    if let Ok(mut value) = serde_json::from_slice::<Value>(line) {
        change(&mut value);
        if let Ok(text) = serde_json::to_vec(&value) {
            *line = text;
        }
    }
}

/// The last entry is left out, and the count says so: only the heads tell.
fn cut_end(random: &mut Random, lines: &mut Vec<Vec<u8>>, last: usize) {
    if last < 2 {
        return;
    }
    lines.remove(last - 1);
    let count = if random.once_in(4) { last - 1 } else { last - 2 };
    let end = lines.len() - 1;
    edit(&mut lines[end], |end| end["end"]["entries"] = json!(count));
}

/// One letter or digit becomes another, which is still text.
fn flip(random: &mut Random, line: &mut [u8]) {
    for _ in 0..100 {
        let at = random.below(line.len());
        if line[at].is_ascii_alphanumeric() {
            line[at] = if line[at] == b'a' { b'b' } else { b'a' };
            return;
        }
    }
}
