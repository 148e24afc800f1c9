//! The rings between the two processes, here between two threads.

use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use api::id::{Geometry, PathId};
use api::record::{Command, Event, Status};
use api::region::{CommandSizes, StateSizes};
use api::side::{DataplaneSide, IkePreparation, IkeSide, SubmitError};

use super::clock::nanoseconds;
use super::table::Section;

const COMMANDS: u32 = 200_000;
const ROUND_TRIPS: u32 = 20_000;

/// Commands a second with all their completions, and the time of one there and back.
pub(super) fn run(runs: usize) -> Result<Section, Box<dyn Error>> {
    let mut section = Section::new("Command and event ring between two threads", "contract");
    let (mut rates, mut trips) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let ns = with_dataplane(|ike| stream(ike, COMMANDS))?;
        rates.push(f64::from(COMMANDS) / ns * 1e9);
        let ns = with_dataplane(|ike| one_by_one(ike, ROUND_TRIPS))?;
        trips.push(ns / f64::from(ROUND_TRIPS));
    }
    section.push(
        "commands, completed".to_owned(),
        "culvert",
        "per second",
        rates,
    );
    section.push(
        "round trip, both polling".to_owned(),
        "culvert",
        "ns",
        trips,
    );
    Ok(section)
}

/// Nanoseconds of `work` at IKE's end while a thread completes every command at once.
fn with_dataplane(
    work: impl FnOnce(&mut IkeSide) -> Result<(), Box<dyn Error>>,
) -> Result<f64, Box<dyn Error>> {
    let geometry = Geometry::new(64, 1, 0)?;
    let mut dataplane = DataplaneSide::create(&StateSizes::new(geometry, 1, 64))?;
    let preparation = IkePreparation::new(&CommandSizes::default())?;
    let welcome = dataplane.attach(preparation.hello(None, Vec::new())?)?;
    let (mut ike, _) = preparation.start(welcome)?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let served = scope.spawn(|| serve(dataplane, &stop));
        let start = Instant::now();
        let result = work(&mut ike);
        let ns = nanoseconds(start);
        stop.store(true, Ordering::Relaxed);
        served
            .join()
            .map_err(|_| "the dataplane's thread panicked")??;
        result.map(|()| ns)
    })
}

fn serve(mut dataplane: DataplaneSide, stop: &AtomicBool) -> Result<(), api::ring::Corrupt> {
    while !stop.load(Ordering::Relaxed) {
        match dataplane.poll()? {
            Some((number, _)) => dataplane.complete(number, Status::Ok)?,
            None => std::hint::spin_loop(),
        }
    }
    Ok(())
}

/// As many commands under way as there is room for.
fn stream(ike: &mut IkeSide, commands: u32) -> Result<(), Box<dyn Error>> {
    let (mut sent, mut completed) = (0, 0);
    while completed < commands {
        if sent < commands {
            match ike.submit(&Command::PathDelete(PathId(sent))) {
                Ok(_) => sent += 1,
                Err(SubmitError::Full) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // Room shows when events are polled; one poll for a few commands is enough.
        if sent % 16 == 0 || sent == commands {
            while let Some(event) = ike.poll()? {
                completed += u32::from(matches!(event, Event::Completed { .. }));
            }
        }
    }
    Ok(())
}

fn one_by_one(ike: &mut IkeSide, trips: u32) -> Result<(), Box<dyn Error>> {
    for trip in 0..trips {
        ike.submit(&Command::PathDelete(PathId(trip)))?;
        while ike.poll()?.is_none() {
            std::hint::spin_loop();
        }
    }
    Ok(())
}
