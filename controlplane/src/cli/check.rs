//! `culvert check FILE`.

use std::io::{self, Write};
use std::path::Path;

use api::config::{Faults, Severity};
use serde_json::{Value, json};

use super::FAULTS;
use super::client::Failure;
use crate::config;

/// Reads the file as both processes would, and tells every fault. Returns the exit code.
pub(super) fn run(file: &Path, json: bool, out: &mut impl Write) -> Result<u8, Failure> {
    let checked = config::load(file);
    let (faults, code) = match &checked {
        Ok((_, warnings)) => (warnings, 0),
        Err(faults) => (faults, FAULTS),
    };
    if json {
        let list: Vec<_> = faults.list.iter().map(fault_json).collect();
        writeln!(out, "{:#}", json!({ "ok": code == 0, "faults": list }))?;
        return Ok(code);
    }
    tell(faults)?;
    if let Ok((config, _)) = &checked {
        let children: usize = config.connections.iter().map(|c| c.children.len()).sum();
        writeln!(
            out,
            "{}: good: {} ports, {} connections, {children} children, {} static SAs",
            file.display(),
            config.dataplane.ports.len(),
            config.connections.len(),
            config.dataplane.static_sas.len(),
        )?;
    }
    Ok(code)
}

fn tell(faults: &Faults) -> Result<(), Failure> {
    if !faults.is_empty() {
        writeln!(io::stderr(), "{faults}")?;
    }
    Ok(())
}

fn fault_json(fault: &api::config::Fault) -> Value {
    let severity = match fault.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    json!({
        "severity": severity,
        "line": fault.line,
        "column": fault.column,
        "message": fault.message,
    })
}
