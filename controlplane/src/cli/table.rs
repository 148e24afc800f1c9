//! Tables for people: columns as wide as their widest cell, numbers to the right.

use std::fmt::Write;

/// Rows of cells under a heading.
pub(super) struct Table {
    heading: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(heading: &[&'static str]) -> Self {
        Self {
            heading: heading.to_vec(),
            rows: Vec::new(),
        }
    }

    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The table, or `none` if it has no row.
    pub(super) fn render(&self, none: &str) -> String {
        if self.rows.is_empty() {
            return format!("{none}\n");
        }
        let widths: Vec<usize> = (0..self.heading.len()).map(|at| self.width(at)).collect();
        let numeric: Vec<bool> = (0..self.heading.len())
            .map(|at| self.is_numeric(at))
            .collect();
        let mut out = String::new();
        let heading: Vec<String> = self.heading.iter().map(|&cell| cell.to_owned()).collect();
        for row in std::iter::once(&heading).chain(&self.rows) {
            let mut line = String::new();
            for ((cell, &width), &right) in row.iter().zip(&widths).zip(&numeric) {
                // Writing to a String cannot fail.
                let _ = match right {
                    true => write!(line, "{cell:>width$}  "),
                    false => write!(line, "{cell:<width$}  "),
                };
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }

    fn column(&self, at: usize) -> impl Iterator<Item = &str> {
        self.rows
            .iter()
            .filter_map(move |row| row.get(at))
            .map(String::as_str)
    }

    fn width(&self, at: usize) -> usize {
        let heading = self.heading.get(at).map_or(0, |cell| cell.chars().count());
        self.column(at)
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
            .max(heading)
    }

    fn is_numeric(&self, at: usize) -> bool {
        let is_number = |cell: &str| cell.starts_with(|c: char| c.is_ascii_digit());
        let plain = |cell: &str| {
            cell.chars()
                .all(|c| c.is_ascii_digit() || ". KMGTB%".contains(c))
        };
        self.column(at)
            .all(|cell| cell == "-" || is_number(cell) && plain(cell))
    }
}

/// Bytes as people read them: `1.5 MB` (powers of 1,000, like file managers and ping).
pub(super) fn bytes(count: u64) -> String {
    let mut unit = "";
    let (mut whole, mut tenth) = (count, 0);
    for next in ["K", "M", "G", "T"] {
        if whole < 1_000 {
            break;
        }
        (whole, tenth) = (whole / 1_000, whole % 1_000 / 100);
        unit = next;
    }
    if unit.is_empty() {
        format!("{whole} B")
    } else {
        format!("{whole}.{tenth} {unit}B")
    }
}

/// Seconds as `45s`, `12m05s`, `3h20m`, `2d04h`.
pub(super) fn age(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match () {
        () if days > 0 => format!("{days}d{:02}h", hours % 24),
        () if hours > 0 => format!("{hours}h{:02}m", minutes % 60),
        () if minutes > 0 => format!("{minutes}m{:02}s", seconds % 60),
        () => format!("{seconds}s"),
    }
}

/// `-` for nothing.
pub(super) fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["NAME", "PACKETS", "DEVICE"]);
        table.row(vec!["a".into(), "7".into(), "x".into()]);
        table.row(vec!["longer".into(), "12345678".into(), "-".into()]);
        let expected = "NAME     PACKETS  DEVICE\na              7  x\nlonger  12345678  -\n";
        assert_eq!(table.render("none"), expected);
        assert_eq!(Table::new(&["A"]).render("no ports"), "no ports\n");
    }

    #[test]
    fn sizes_and_ages_are_short() {
        let sizes = [0, 999, 1_000, 1_550, 999_999, 1_000_000, u64::MAX].map(bytes);
        let expected = [
            "0 B",
            "999 B",
            "1.0 KB",
            "1.5 KB",
            "999.9 KB",
            "1.0 MB",
            "18446744.0 TB",
        ];
        assert_eq!(sizes, expected);
        let ages = [0, 59, 60, 3_599, 3_600, 86_399, 86_400].map(age);
        assert_eq!(
            ages,
            ["0s", "59s", "1m00s", "59m59s", "1h00m", "23h59m", "1d00h"]
        );
    }
}
