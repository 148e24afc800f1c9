//! Figures of several runs, as a table and as JSON.

use serde::Serialize;

/// What one cell of a measurement gave.
#[derive(Serialize)]
pub(super) struct Cell {
    /// What is measured, such as "seal aes128 64 B".
    pub(super) name: String,
    /// Who does it.
    pub(super) by: String,
    pub(super) unit: &'static str,
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) runs: usize,
    /// Median of this one over the baseline's of the same name; absent for the baseline itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ratio: Option<f64>,
    /// Who the baseline is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) baseline: Option<String>,
}

/// Cells that one command gives.
#[derive(Serialize)]
pub(super) struct Section {
    pub(super) title: &'static str,
    pub(super) command: String,
    pub(super) cells: Vec<Cell>,
}

impl Section {
    pub(super) fn new(title: &'static str, part: &str) -> Self {
        Self {
            title,
            command: format!("culvert-bench all --only {part}"),
            cells: Vec::new(),
        }
    }

    /// Adds the figures of all runs of one cell.
    pub(super) fn push(&mut self, name: String, by: &str, unit: &'static str, mut runs: Vec<f64>) {
        runs.sort_by(f64::total_cmp);
        let (Some(min), Some(max)) = (runs.first().copied(), runs.last().copied()) else {
            return;
        };
        self.cells.push(Cell {
            name,
            by: by.to_owned(),
            unit,
            median: median(&runs),
            min,
            max,
            runs: runs.len(),
            ratio: None,
            baseline: None,
        });
    }

    /// Compares the cells of each name and unit with the one by `baseline`.
    pub(super) fn compare_with(&mut self, baseline: &str) {
        let medians: Vec<(String, &str, f64)> = self
            .cells
            .iter()
            .filter(|cell| cell.by == baseline)
            .map(|cell| (cell.name.clone(), cell.unit, cell.median))
            .collect();
        for cell in self.cells.iter_mut().filter(|cell| cell.by != baseline) {
            let base = medians
                .iter()
                .find(|(name, unit, _)| *name == cell.name && *unit == cell.unit);
            cell.ratio = base.map(|(_, _, median)| cell.median / median);
            cell.baseline = base.map(|_| baseline.to_owned());
        }
    }

    /// The cells as aligned lines under a heading.
    pub(super) fn print(&self) {
        println!("\n{} ({})", self.title, self.command);
        println!(
            "  {:<34} {:<22} {:>12} {:>27} {:<15} ratio",
            "", "by", "median", "min .. max", "unit"
        );
        for cell in &self.cells {
            let ratio = match (cell.ratio, &cell.baseline) {
                (Some(ratio), Some(baseline)) => format!("{ratio:.2} of {baseline}"),
                _ => "-".to_owned(),
            };
            let range = format!("{} .. {}", figure(cell.min), figure(cell.max));
            println!(
                "  {:<34} {:<22} {:>12} {:>27} {:<15} {ratio}",
                cell.name,
                cell.by,
                figure(cell.median),
                range,
                cell.unit,
            );
        }
    }
}

fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
    if sorted.len() % 2 == 1 {
        at(middle)
    } else {
        (at(middle - 1) + at(middle)) / 2.0
    }
}

/// Three digits that count, or all before the point.
fn figure(value: f64) -> String {
    match value {
        _ if value >= 100.0 => format!("{value:.0}"),
        _ if value >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_stands_between_the_ends() {
        let mut section = Section::new("t", "t");
        section.push("a".to_owned(), "ours", "s", vec![9.0, 1.0, 2.0]);
        section.push("a".to_owned(), "theirs", "s", vec![4.0, 6.0, 1.0, 9.0]);
        section.compare_with("theirs");
        let [ours, theirs] = &section.cells[..] else {
            panic!("two cells")
        };
        assert_eq!((ours.min, ours.median, ours.max), (1.0, 2.0, 9.0));
        assert_eq!((theirs.median, theirs.ratio), (5.0, None));
        assert_eq!(ours.ratio, Some(0.4));
    }

    #[test]
    fn without_a_baseline_there_is_no_ratio() {
        let mut section = Section::new("t", "t");
        section.push("a".to_owned(), "ours", "s", vec![1.0]);
        section.push("b".to_owned(), "theirs", "s", vec![1.0]);
        section.compare_with("theirs");
        assert!(section.cells.iter().all(|cell| cell.ratio.is_none()));
    }
}
