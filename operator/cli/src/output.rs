//! What the commands print.

use std::fmt::Display;

use anyhow::Context as _;
use serde::Serialize;

/// What to do with a resource that a command made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// Print it as YAML, for git or for another machine, and apply nothing.
    Yaml,
}

/// Prints resources as one YAML stream.
///
/// # Errors
/// Where a resource cannot be written as YAML.
pub fn print_yaml<T: Serialize>(resources: &[T]) -> anyhow::Result<()> {
    for resource in resources {
        // By way of JSON: see `read_yaml`.
        let value = serde_json::to_value(resource).context("cannot print the resource")?;
        print!("---\n{}", serde_yaml::to_string(&value).context("cannot print the resource")?);
    }
    Ok(())
}

/// Prints rows under headings as kubectl does: columns as wide as their widest cell, three spaces between.
pub fn print_table(headings: &[&str], rows: &[Vec<String>]) {
    print!("{}", table(headings, rows));
}

/// Rows under headings as text.
pub fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = headings.iter().map(|heading| heading.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(padded.join("   ").trim_end());
        text.push('\n');
    };
    line(&mut headings.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
    text
}

/// What somebody else has written, as one line of one's own: a title may hold line breaks, and must not pass for output.
pub fn one_line(text: impl Display) -> String {
    text.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A value, or `-` where there is none.
pub fn or_dash<T: Display>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// A duration in seconds as kubectl prints ages: `45s`, `3m20s`, `5h`, `12d`.
pub fn age(seconds: i64) -> String {
    match seconds {
        ..0 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 if seconds % 60 != 0 => format!("{}m{}s", seconds / 60, seconds % 60),
        120..10_800 => format!("{}m", seconds / 60),
        10_800..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = vec![vec!["aarhus".to_owned(), "Active".to_owned()], vec!["bo".to_owned(), "Left".to_owned()]];
        assert_eq!(table(&["MEMBER", "STATE"], &rows), "MEMBER   STATE\naarhus   Active\nbo       Left\n");
    }

    #[test]
    fn a_title_cannot_pass_for_a_line_of_output() {
        assert_eq!(one_line("Add a model\nEnacted: it is in force\t!"), "Add a model Enacted: it is in force !");
    }

    #[test]
    fn ages_read_as_in_kubectl() {
        let seen: Vec<String> = [-5, 45, 200, 240, 7200, 86_400, 864_000].into_iter().map(age).collect();
        assert_eq!(seen, ["0s", "45s", "3m20s", "4m", "120m", "24h", "10d"]);
    }
}
