//! The contract into the real dataplane: SAs a second, and the way of one command there and back.

use std::error::Error;

use super::contract;
use super::table::Section;
use crate::rig::control::{Options, install};
use crate::rig::load::{self, Part};

/// The rings between two threads, then the real process with each number of SAs.
pub(super) fn sections(options: &Options) -> Result<Vec<Section>, Box<dyn Error>> {
    let runs = usize::from(options.runs);
    let mut section = Section::new("SAs into the real culvert-dataplane, over the contract", "");
    section.command = crate::rig::command();
    for sas in &options.sas {
        let mut rates = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut one_more = (Vec::new(), Vec::new());
        let mut resident = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..runs {
            let installed = install(options, *sas)?;
            rates.0.push(f64::from(installed.sas) / installed.seconds);
            rates.1.push(installed.commands as f64 / installed.seconds);
            rates.2.push(installed.commit_seconds * 1e3);
            rates.3.push(installed.round_trip_ns);
            one_more.0.push(installed.one_more_ms.0);
            one_more.1.push(installed.one_more_ms.1);
            let (before, after) = installed.resident;
            for (all, mib) in resident
                .iter_mut()
                .zip([before.all, after.all, after.state])
            {
                all.push(mib);
            }
        }
        let name = |what: &str| format!("{sas} tunnels: {what}");
        section.push(name("SAs, committed"), "culvert", "per second", rates.0);
        section.push(
            name("commands, completed"),
            "culvert",
            "per second",
            rates.1,
        );
        section.push(name("commit, part of that"), "culvert", "ms", rates.2);
        section.push(name("round trip, median"), "culvert", "ns", rates.3);
        section.push(name("one more child, median"), "culvert", "ms", one_more.0);
        section.push(name("one more child, longest"), "culvert", "ms", one_more.1);
        let [before, after, state] = resident;
        section.push(name("memory before the first SA"), "culvert", "MiB", before);
        section.push(name("memory with all SAs"), "culvert", "MiB", after);
        section.push(
            name("the state region, part of that"),
            "culvert",
            "MiB",
            state,
        );
    }
    let mut sections = vec![contract::run(runs)?, section];
    if options.under_load {
        sections.push(under_load(options)?);
    }
    Ok(sections)
}

/// The same while packets of other SAs flow.
fn under_load(options: &Options) -> Result<Section, Box<dyn Error>> {
    let title = "Tunnels that come, change keys and go while 1,000 other SAs have traffic";
    let mut section = Section::new(title, "");
    section.command = crate::rig::command();
    for tunnels in &options.sas {
        let mut all = Vec::new();
        for _ in 0..options.runs {
            all.push(load::run(options, *tunnels)?);
        }
        let of = |at: usize| all.iter().filter_map(move |parts| parts.get(at));
        for at in 0..all.first().map_or(0, Vec::len) {
            let Some(name) = of(at).next().map(|part| part.name) else {
                continue;
            };
            let name = |what: &str| format!("{tunnels} tunnels, {name}: {what}");
            let mut add = |what, unit, value: fn(&Part) -> f64| {
                section.push(name(what), "culvert", unit, of(at).map(value).collect());
            };
            add("time", "ms", |part| part.seconds * 1e3);
            add("commands or rows", "", |part| part.commands as f64);
            add("traffic", "packets/s", |part| part.rate);
            add("traffic, of that before", "%", |part| part.share() * 1e2);
            add("packets lost", "", |part| part.lost() as f64);
            for (reason, lost) in of(at).flat_map(|part| &part.drops) {
                section.push(name(reason), "culvert", "lost", vec![*lost as f64]);
            }
        }
    }
    Ok(section)
}
