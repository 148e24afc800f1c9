//! Figures as a table, as JSON, and against an earlier JSON. docs/performance.md describes the file.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::cell::CellName;
use super::environment::Environment;
use super::generator::Stats;

/// Counts up when a reader of older files would misread.
pub(crate) const SCHEMA: u32 = 1;

/// What was typed.
pub(crate) fn command() -> String {
    let words: Vec<String> = std::env::args().skip(1).collect();
    format!("culvert-bench {}", words.join(" "))
}

/// A file of figures.
#[derive(Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) schema: u32,
    /// The command that made it.
    pub(crate) command: String,
    pub(crate) environment: Environment,
    pub(crate) cells: Vec<Figure>,
}

/// What one cell gave for one program.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) cell: CellName,
    /// Who did it: "culvert", "secgw-cpu", "secgw-look".
    pub(crate) by: String,
    pub(crate) runs: usize,
    /// Core cycles per packet without the generator's share.
    pub(crate) net: Option<Spread>,
    /// With it.
    pub(crate) gross: Option<Spread>,
    /// Packets a second as measured, the generator's share included.
    pub(crate) pps: Option<Spread>,
    /// Share of the packets that were not sent; more than a few thousandths only where that is no
    /// error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lost: Option<f64>,
    /// The least tenth percentile of net over windows: an undisturbed machine.
    pub(crate) quiet: Option<f64>,
    /// Nanoseconds that a cache line takes from worker to crypto worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) hop_ns: Option<Spread>,
    /// Frames that were looked at and are right, of all runs.
    pub(crate) verified: usize,
    /// Net cycles per packet by stage, where they were asked for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) stages: BTreeMap<String, f64>,
    /// SAs installed in a second, over the contract.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sas_per_second: Option<f64>,
    /// Why there is no figure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// Median and ends of several runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            *values.get(middle)?
        } else {
            (values.get(middle - 1)? + values.get(middle)?) / 2.0
        };
        Some(Self { median, min, max })
    }
}

impl Figure {
    /// The figure of several runs; a run that failed makes it an error.
    pub(crate) fn new(cell: CellName, by: &str, runs: &[Stats], verified: usize) -> Self {
        let spread = |of: fn(&Stats) -> f64| Spread::of(runs.iter().map(of));
        Self {
            cell,
            by: by.to_owned(),
            runs: runs.len(),
            net: spread(|run| run.net),
            gross: spread(|run| run.gross),
            pps: spread(|run| run.tx_pps),
            lost: spread(|run| 1.0 - run.tx_pps / run.rx_pps.max(1.0)).map(|lost| lost.median),
            quiet: spread(|run| run.net_p10).map(|spread| spread.min),
            hop_ns: None,
            verified,
            stages: BTreeMap::new(),
            sas_per_second: None,
            error: None,
        }
    }

    pub(crate) fn failed(cell: CellName, by: &str, error: String) -> Self {
        Self {
            error: Some(error),
            ..Self::new(cell, by, &[], 0)
        }
    }

    /// Cycles per packet, if there is a figure.
    pub(crate) fn median(&self) -> Option<f64> {
        self.net.map(|net| net.median)
    }
}

impl Report {
    pub(crate) fn new(environment: Environment, cells: Vec<Figure>) -> Self {
        Self {
            schema: SCHEMA,
            command: command(),
            environment,
            cells,
        }
    }

    pub(crate) fn read(path: &Path) -> Result<Self, Box<dyn Error>> {
        let text =
            fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let wrong = |error| format!("{}: not a file of --json: {error}", path.display());
        let report: Self = serde_json::from_str(&text).map_err(wrong)?;
        if report.schema != SCHEMA {
            let (found, path) = (report.schema, path.display());
            return Err(format!("{path}: schema {found}, this program reads {SCHEMA}").into());
        }
        Ok(report)
    }

    pub(crate) fn write(&self, path: &Path) -> Result<(), Box<dyn Error>> {
        fs::write(path, serde_json::to_string_pretty(self)? + "\n")?;
        Ok(())
    }

    /// The figure of the same cell by the same program.
    pub(crate) fn find(&self, cell: &CellName, by: &str) -> Option<&Figure> {
        self.cells
            .iter()
            .find(|figure| figure.cell == *cell && figure.by == by)
    }

    /// Lines of one figure each, with the ratio to an earlier report.
    pub(crate) fn print(&self, earlier: Option<&Self>) {
        println!("\n{}", self.command);
        let against = earlier.map_or("", |_| "   of then");
        println!(
            "{:<30} {:<11} {:>8} {:>17} {:>7} {:>7} {:>7} {:>5} {:>6}{against}",
            "", "by", "net", "min .. max", "quiet", "gross", "Mpps", "runs", "right"
        );
        for figure in &self.cells {
            let ratio = earlier.and_then(|earlier| {
                let then = earlier.find(&figure.cell, &figure.by)?.median()?;
                Some(format!("{:>10.3}", figure.median()? / then))
            });
            println!("{}{}", line(figure), ratio.unwrap_or_default());
        }
    }

    /// Fails when a cell has no figure, after everything was printed.
    pub(crate) fn verdict(&self) -> Result<(), Box<dyn Error>> {
        let failed = self.cells.iter().filter(|cell| cell.error.is_some());
        match failed.count() {
            0 => Ok(()),
            count => Err(format!("{count} cells have no figure").into()),
        }
    }
}

fn line(figure: &Figure) -> String {
    let (cell, by) = (figure.cell.to_string(), &figure.by);
    let (Some(net), Some(gross), Some(pps)) = (figure.net, figure.gross, figure.pps) else {
        // The rest of it is in the file.
        let error = figure.error.as_deref().unwrap_or("no run");
        let error = error.lines().take(2).collect::<Vec<_>>().join(" ");
        return format!("{cell:<30} {by:<11} {error}");
    };
    let range = format!("{:.1} .. {:.1}", net.min, net.max);
    format!(
        "{cell:<30} {by:<11} {:>8.1} {range:>17} {:>7.1} {:>7.1} {:>7.2} {:>5} {:>6}",
        net.median,
        figure.quiet.unwrap_or(f64::NAN),
        gross.median,
        pps.median / 1e6,
        figure.runs,
        figure.verified,
    )
}

#[cfg(test)]
mod tests {
    use super::super::cell::Cell;
    use super::*;

    fn cell() -> CellName {
        Cell::usual(1).name()
    }

    fn stats(net: f64) -> Stats {
        Stats {
            net,
            net_p10: net - 1.0,
            gross: net + 50.0,
            rx: 30.0,
            tx: 20.0,
            windows: 10,
            clean: 9,
            frames: 1,
            ring: 1,
            seal_tsc: 0.0,
            rx_pps: 1e6,
            tx_pps: 1e6,
            ratio: 1.4,
            core_ghz: 3.7,
            rx_pkts: 1000,
            tx_pkts: 1000,
        }
    }

    fn report(figures: Vec<Figure>) -> Report {
        let environment = Environment {
            cpu: "a".to_owned(),
            flags: vec!["avx2".to_owned()],
            crypto_tier: "portable".to_owned(),
            core_per_tsc: 1.0,
            core_ghz: 1.0,
            kernel: String::new(),
            dpdk: String::new(),
            commit: String::new(),
            hugepages: true,
            replay_window: 4096,
            memory: Vec::new(),
        };
        Report::new(environment, figures)
    }

    #[test]
    fn a_file_comes_back_and_is_found_by_cell_and_program() {
        let runs = [stats(10.0), stats(30.0), stats(20.0)];
        let figure = Figure::new(cell(), "culvert", &runs, 9000);
        let failed = Figure::failed(cell(), "secgw-cpu", "no".to_owned());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        report(vec![figure, failed]).write(&path).unwrap();
        let back = Report::read(&path).unwrap();
        let found = back.find(&cell(), "culvert").unwrap();
        let net = found.net.unwrap();
        assert_eq!((net.min, net.median, net.max), (10.0, 20.0, 30.0));
        assert_eq!((found.quiet, found.runs), (Some(9.0), 3));
        assert_eq!(back.find(&cell(), "secgw-cpu").unwrap().median(), None);
        assert!(back.find(&cell(), "secgw-look").is_none());
        assert!(back.verdict().is_err(), "a cell failed");
    }

    #[test]
    fn files_of_other_programs_and_schemas_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        assert!(Report::read(&path).is_err());
        fs::write(&path, "{\"cpu\":\"x\"}").unwrap();
        assert!(Report::read(&path).is_err());
        let mut other = report(Vec::new());
        other.schema = SCHEMA + 1;
        other.write(&path).unwrap();
        assert!(Report::read(&path).is_err_and(|e| e.to_string().contains("schema 2,")));
    }

    #[test]
    fn medians_of_even_numbers_lie_between() {
        let spread = Spread::of([4.0, 1.0, 2.0, 9.0]).unwrap();
        assert_eq!((spread.min, spread.median, spread.max), (1.0, 3.0, 9.0));
        assert_eq!(Spread::of([]), None);
    }
}
