//! How results are shown: aligned text, or one JSON object.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, Write as _};

use alloy_primitives::{Address, hex};
use serde_json::Value;

/// Bytes of data that are shown to people.
const SHOWN_BYTES: usize = 64;

/// The result of a command.
pub trait Report {
    /// For people: short and aligned, lines without the last line's end.
    fn text(&self) -> String;

    /// For programs: one object with stable names. Hashes are hex with 0x, wei are decimal strings.
    fn json(&self) -> Value;
}

/// Prints a result to standard output. A reader that has gone away is no error.
pub fn print(report: &impl Report, json: bool) -> anyhow::Result<()> {
    let text = if json { report.json().to_string() } else { report.text() };
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Bytes in hex, those over the first few left out.
pub fn bytes(bytes: &[u8]) -> String {
    match bytes.get(..SHOWN_BYTES) {
        Some(first) if bytes.len() > SHOWN_BYTES => {
            format!("{}… ({} bytes)", hex::encode_prefixed(first), bytes.len())
        }
        _ => hex::encode_prefixed(bytes),
    }
}

/// An address of a reply, with its checksum if it is one.
pub fn address(bytes: &[u8]) -> String {
    match Address::try_from(bytes) {
        Ok(address) => address.to_string(),
        Err(_) => hex::encode_prefixed(bytes),
    }
}

/// Numbers with commas between; a dash if there are none.
pub fn list(numbers: &[u32]) -> String {
    match numbers {
        [] => "-".into(),
        _ => numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// A count and its noun, in the plural if need be.
pub fn count(count: u64, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// Lines of a label and a value.
#[derive(Default)]
pub struct Rows(Vec<(String, String)>);

impl Rows {
    pub fn push(&mut self, label: impl Into<String>, value: impl Into<String>) {
        self.0.push((label.into(), printable(&value.into())));
    }

    pub fn text(&self) -> String {
        let width = self.0.iter().map(|(label, _)| label.chars().count()).max().unwrap_or(0);
        let line = |(label, value): &(String, String)| format!("{label:width$}  {value}");
        self.0.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

/// How a column is aligned.
#[derive(Clone, Copy)]
pub enum Align {
    Left,
    Right,
}

/// Columns as wide as they need to be, under their headings.
pub fn table(columns: &[(&str, Align)], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let widest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
        widest.max(columns[column].0.len())
    };
    let widths: Vec<_> = (0..columns.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for ((cell, width), (_, align)) in cells.zip(&widths).zip(columns) {
            let _ = match align {
                Align::Left => write!(line, "{cell:width$}  "),
                Align::Right => write!(line, "{cell:>width$}  "),
            };
        }
        line.trim_end().to_owned()
    };
    let mut lines = vec![line(&mut columns.iter().map(|(heading, _)| *heading))];
    lines.extend(rows.iter().map(|row| line(&mut row.iter().map(String::as_str))));
    lines.join("\n")
}

/// What comes from a contract may hold anything: nothing of it reaches the terminal as a command.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}
