//! Numbers, times and tables as people read them.

use std::io::Write;

use jiff::tz::TimeZone;
use lakebed_connectors::object_storage::{Prices, Traffic};
use lakebed_engine::core::record::tree::{Entry, EntryKind};
use lakebed_engine::core::text::{escape_path, file_uri_path};
use lakebed_engine::core::time::Timestamp;
use lakebed_engine::restore::Action;
use serde_json::{Value, json};

/// Writes bytes in IEC units, with three digits.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // what would be shown as 1000 or more is shown in the next unit
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if value < 9.995 {
        2
    } else if value < 99.95 {
        1
    } else {
        0
    };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// Writes a number with commas between thousands.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Writes a number of things.
pub(crate) fn counted(number: u64, one: &str, many: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{} {many}", count(number)) }
}

/// Writes a length of time.
pub(crate) fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        _ if seconds < 9.95 => format!("{:.1} s", seconds.max(0.0)),
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        3600..86400 => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
        _ => format!("{} d {} h", whole / 86400, whole % 86400 / 3600),
    }
}

/// Writes bytes a second.
pub(crate) fn rate(total: u64, seconds: f64) -> String {
    match seconds > 0.0 {
        true => format!("{}/s", bytes((total as f64 / seconds) as u64)),
        false => format!("{}/s", bytes(total)),
    }
}

/// Writes how much smaller something got.
pub(crate) fn ratio(from: u64, to: u64) -> String {
    if from == 0 || to == 0 { "-".into() } else { format!("{:.2}:1", from as f64 / to as f64) }
}

/// Writes a share of 100 %, rounded down, so that 100 % means all.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 || part >= whole {
        return "100 %".into();
    }
    let percent = part as f64 * 100.0 / whole as f64;
    if percent < 10.0 { format!("{:.1} %", (percent * 10.0).floor() / 10.0) } else { format!("{} %", percent.floor()) }
}

/// Writes a time in the local zone, to the second, in a form that `--at` understands.
pub(crate) fn local_time(time: Timestamp) -> String {
    in_zone(time, TimeZone::system())
}

fn in_zone(time: Timestamp, zone: TimeZone) -> String {
    time.to_jiff().to_zoned(zone).strftime("%Y-%m-%d %H:%M:%S%:z").to_string()
}

/// Writes text from a repository without anything that a terminal would obey.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Writes a local source as the path of its folder; others keep their URI.
pub(crate) fn source_path(uri: &str) -> String {
    file_uri_path(uri).map_or_else(|| plain(uri), |path| escape_path(&path))
}

/// Writes a path of a snapshot, with a slash after a directory's.
pub(crate) fn text_of(path: &[u8], entry: &Entry) -> String {
    let mut text = escape_path(path);
    if entry.kind == EntryKind::Directory {
        text.push('/');
    }
    text
}

/// Writes kind and permissions as `ls -l` does.
pub(crate) fn mode(entry: &Entry) -> String {
    let kind = match entry.kind {
        EntryKind::File => '-',
        EntryKind::Directory => 'd',
        EntryKind::Symlink => 'l',
        EntryKind::Fifo => 'p',
        EntryKind::Socket => 's',
        EntryKind::CharDevice => 'c',
        EntryKind::BlockDevice => 'b',
    };
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = entry.mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, entry.mode & special != 0) {
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// Returns an entry as JSON has it.
pub(crate) fn entry_json(path: &[u8], entry: &Entry) -> Value {
    let mut value = json!({
        "path": escape_path(path),
        "kind": entry.kind.as_str(),
        "mode": format!("{:04o}", entry.mode),
        "uid": entry.uid,
        "gid": entry.gid,
        "mtime": entry.mtime,
    });
    if let Some(map) = value.as_object_mut() {
        if entry.kind == EntryKind::File {
            map.insert("size".into(), entry.size.into());
            map.insert("content".into(), json!(entry.content.hash()));
        }
        if entry.kind == EntryKind::Symlink {
            map.insert("target".into(), escape_path(&entry.link_target).into());
        }
        if entry.inconsistent {
            map.insert("inconsistent".into(), true.into());
        }
    }
    value
}

/// Returns the sign for what happened to an entry.
pub(crate) fn action_sign(action: Action) -> char {
    match action {
        Action::Created => '+',
        Action::Replaced => 'M',
        Action::Kept => '=',
        Action::Deleted => '-',
    }
}

/// Where a column's text stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Align {
    Left,
    Right,
}

/// A table whose columns are as wide as need be.
pub(crate) struct Table {
    align: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Begins a table. A heading that starts with `>` is of a column of numbers.
    pub(crate) fn new(headings: &[&str]) -> Self {
        let align = headings.iter().map(|h| if h.starts_with('>') { Align::Right } else { Align::Left }).collect();
        let first = headings.iter().map(|heading| heading.trim_start_matches('>').to_owned()).collect();
        Self { align, rows: vec![first] }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Writes the table.
    pub(crate) fn write(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let width = |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max();
        let widths: Vec<usize> = (0..self.align.len()).map(|column| width(column).unwrap_or(0)).collect();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, &width), &align) in row.iter().zip(&widths).zip(&self.align) {
                let padding = " ".repeat(width.saturating_sub(cell.chars().count()));
                match align {
                    Align::Left => line.extend([cell.as_str(), &padding, "  "]),
                    Align::Right => line.extend([padding.as_str(), cell, "  "]),
                }
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Returns what was asked of object stores, and what that costs where prices are known.
pub(super) fn traffic(traffic: &Traffic, prices: Option<&Prices>) -> String {
    let Traffic { puts, gets, heads, lists, deletes, .. } = *traffic;
    let kinds = [(puts, "put"), (gets, "get"), (heads, "head"), (lists, "list"), (deletes, "delete")];
    let kinds = kinds.iter().filter(|(number, _)| *number > 0);
    let kinds: Vec<String> = kinds.map(|(number, kind)| format!("{} {kind}", count(*number))).collect();
    let cost = prices.map(|prices| format!(", about {:.4} {}", prices.cost(traffic), prices.currency));
    format!(
        "requests:    {} ({}), {} sent, {} received{}",
        count(traffic.requests()),
        kinds.join(", "),
        bytes(traffic.sent_bytes),
        bytes(traffic.received_bytes),
        cost.unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (number, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (10 << 10, "10.0 KiB"),
            (123 << 10, "123 KiB"),
            (1000 << 10, "0.98 MiB"),
            (3 << 29, "1.50 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(number), text);
        }
    }

    #[test]
    fn counts_have_commas() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1234567, "1,234,567")] {
            assert_eq!(count(number), text);
        }
        assert_eq!(counted(1, "entry", "entries"), "1 entry");
        assert_eq!(counted(0, "entry", "entries"), "0 entries");
    }

    #[test]
    fn durations_have_two_units() {
        for (seconds, text) in [
            (0.04, "0.0 s"),
            (9.94, "9.9 s"),
            (9.96, "10 s"),
            (59.6, "1 min 0 s"),
            (3725.0, "1 h 2 min"),
            (90000.0, "1 d 1 h"),
            (-1.0, "0.0 s"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn hundred_percent_means_all() {
        assert_eq!(percent(999_999, 1_000_000), "99 %");
        assert_eq!(percent(5, 5), "100 %");
        assert_eq!(percent(0, 0), "100 %");
        assert_eq!(percent(1, 18), "5.5 %");
        assert_eq!(ratio(10, 4), "2.50:1");
        assert_eq!(ratio(10, 0), "-");
        assert_eq!(rate(2048, 2.0), "1.00 KiB/s");
    }

    #[test]
    fn times_carry_their_offset() {
        let time = Timestamp::new(1_795_000_000, 5).unwrap();
        assert_eq!(in_zone(time, TimeZone::get("Europe/Berlin").unwrap()), "2026-11-18 12:06:40+01:00");
        assert!(crate::time::parse_last(&local_time(time)).unwrap() >= time);
    }

    #[test]
    fn modes_look_as_in_ls() {
        let mut entry = Entry::new("x", EntryKind::Directory);
        entry.mode = 0o1755;
        assert_eq!(mode(&entry), "drwxr-xr-t");
        entry.kind = EntryKind::File;
        entry.mode = 0o4644;
        assert_eq!(mode(&entry), "-rwSr--r--");
    }

    #[test]
    fn tables_are_as_wide_as_need_be() {
        let mut table = Table::new(&["ID", ">Size", "Host"]);
        table.row(vec!["a".into(), "10 B".into(), "über".into()]);
        table.row(vec!["bcd".into(), "1 B".into(), String::new()]);
        let mut out = Vec::new();
        table.write(&mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "ID   Size  Host\na    10 B  über\nbcd   1 B\n");
    }

    #[test]
    fn local_sources_are_shown_as_paths() {
        assert_eq!(source_path("file:///data/my%20lake%0a"), "/data/my lake\\x0a");
        assert_eq!(source_path("stdin:dump.sql"), "stdin:dump.sql");
    }

    #[test]
    fn nothing_from_a_repository_steers_the_terminal() {
        assert_eq!(plain("a\x1b[31mb\n"), "a\u{fffd}[31mb\u{fffd}");
    }
}
