//! Both ends against each other: in threads, and in two processes of which one is killed.

use std::process::{Child, Command as Process, Stdio};
use std::time::{Duration, Instant};

use super::*;
use crate::counters::{Counter, Counts};
use crate::id::{Geometry, PathId, SaId};
use crate::record::{Direction, Field, Limits};
use crate::session::{Connection, Listener, Message};
use crate::state::{Flags, KeyName, NewRow, Uncertain};
use crate::window::Windows;

fn sizes() -> StateSizes {
    let geometry = Geometry::new(64, 2, 4).unwrap();
    StateSizes {
        event_capacity: 4,
        ..StateSizes::new(geometry, 2, 1024)
    }
}

fn attach(dataplane: &mut DataplaneSide, older: Vec<OwnedFd>) -> IkeSide {
    let sizes = CommandSizes {
        command_capacity: 16,
        ..CommandSizes::default()
    };
    let preparation = IkePreparation::new(&sizes).unwrap();
    let hello = preparation.hello(None, older).unwrap();
    let welcome = dataplane.attach(hello).unwrap();
    preparation.start(welcome).unwrap().0
}

fn pair() -> (DataplaneSide, IkeSide) {
    let mut dataplane = DataplaneSide::create(&sizes()).unwrap();
    let ike = attach(&mut dataplane, Vec::new());
    (dataplane, ike)
}

fn rings(fd: BorrowedFd<'_>) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).unwrap() == 1
}

fn id(index: u16) -> SaId {
    SaId::new(1, index, 9).unwrap()
}

fn delete(n: u32) -> Command {
    Command::PathDelete(PathId(n))
}

#[test]
fn commands_are_completed_and_doorbells_ring_only_for_sleepers() {
    let (mut dataplane, mut ike) = pair();
    assert_eq!(ike.session(), 1);
    assert_eq!(ike.submit(&delete(7)), Ok(0));
    assert!(!rings(dataplane.doorbell()));
    assert_eq!(dataplane.arm(), Ok(false));
    assert_eq!(dataplane.poll(), Ok(Some((0, delete(7)))));
    assert_eq!(dataplane.poll(), Ok(None));
    assert_eq!(dataplane.arm(), Ok(true));
    assert_eq!(ike.arm(), Ok(true));
    assert_eq!(ike.submit(&Command::Commit), Ok(1));
    assert!(rings(dataplane.doorbell()));
    dataplane.disarm();
    assert!(!rings(dataplane.doorbell()));
    dataplane.complete(0, Status::NotFound).unwrap();
    assert!(rings(ike.doorbell()));
    ike.disarm();
    let completed = Event::Completed {
        command: 0,
        status: Status::NotFound,
    };
    assert_eq!(ike.poll(), Ok(Some(completed)));
    assert_eq!(ike.poll(), Ok(None));
}

#[test]
fn a_command_that_cannot_be_is_refused_where_it_is_made() {
    let (mut dataplane, mut ike) = pair();
    let limits = Limits {
        soft_bytes: 2,
        hard_bytes: 1,
        ..Limits::default()
    };
    let error = ike
        .submit(&Command::SaUpdate { id: id(0), limits })
        .unwrap_err();
    assert!(matches!(error, SubmitError::Invalid(e) if e.field == Field::SA_LIMITS));
    assert_eq!(dataplane.poll(), Ok(None));
}

#[test]
fn a_record_that_cannot_be_is_completed_as_invalid() {
    let (mut dataplane, mut ike) = pair();
    ike.commands.push(&[999]).unwrap();
    ike.submit(&Command::Commit).unwrap();
    assert_eq!(dataplane.poll(), Ok(Some((1, Command::Commit))));
    let invalid = Event::Completed {
        command: 0,
        status: Status::Invalid(Field::KIND),
    };
    assert_eq!(ike.poll(), Ok(Some(invalid)));
}

#[test]
fn a_full_ring_loses_no_completion_and_says_what_else_it_lost() {
    let (mut dataplane, mut ike) = pair();
    assert!(ike.take_scan_due(), "a new session looks at the rows");
    assert!(!ike.take_scan_due());
    for n in 0..10 {
        dataplane.complete(n, Status::Ok).unwrap();
    }
    dataplane.event(&Event::Deleted { sa: id(1) }).unwrap();
    assert_eq!(dataplane.overflows(), 1);
    assert_eq!(ike.arm(), Ok(false));
    assert_eq!(dataplane.arm(), Ok(false), "completions wait for room");
    ike.submit(&Command::Commit).unwrap();
    assert_eq!(
        dataplane.poll(),
        Ok(None),
        "no command while completions wait"
    );
    let mut completed = Vec::new();
    while completed.len() < 10 {
        match ike.poll().unwrap() {
            Some(Event::Completed { command, .. }) => completed.push(command),
            Some(other) => panic!("{other:?}"),
            None => assert!(matches!(dataplane.poll(), Ok(None | Some(_)))),
        }
    }
    assert!(completed.into_iter().eq(0..10));
    assert!(ike.take_scan_due());
    assert!(!ike.take_scan_due());
}

#[test]
fn the_command_ring_has_an_end() {
    let (mut dataplane, mut ike) = pair();
    for n in 0..16 {
        assert_eq!(ike.submit(&delete(n)), Ok(u64::from(n)));
    }
    assert_eq!(ike.submit(&delete(16)), Err(SubmitError::Full));
    dataplane.poll().unwrap().unwrap();
    assert_eq!(ike.submit(&delete(16)), Ok(16));
}

#[test]
fn keys_are_overwritten_once_they_are_read() {
    let (mut dataplane, mut ike) = pair();
    let held = |ike: &IkeSide| {
        let slots = &ike.commands_words()[region::HEADER_WORDS..];
        slots.iter().any(|word| word.load(Ordering::Relaxed) != 0)
    };
    ike.submit(&delete(1)).unwrap();
    assert!(held(&ike));
    dataplane.poll().unwrap().unwrap();
    ike.poll().unwrap();
    assert!(!held(&ike));
}

impl IkeSide {
    fn commands_words(&self) -> &[crate::sync::AtomicU64] {
        self.commands.own_words()
    }
}

#[test]
fn corrupt_indices_end_the_session_and_the_next_is_fresh() {
    let (mut dataplane, mut ike) = pair();
    let produced = &ike.commands_words()[region::word::PRODUCED];
    produced.store(1 << 40, Ordering::Relaxed);
    assert_eq!(dataplane.poll().unwrap_err().index, "produced");
    let consumed = &dataplane.states.region.words()[region::word::CONSUMED];
    consumed.store(3, Ordering::Relaxed);
    assert!(matches!(ike.poll(), Err(PollError::Corrupt(_))));
    dataplane.detach();
    assert!(!dataplane.is_attached());
    assert_eq!(dataplane.poll(), Ok(None));
    let mut next = attach(&mut dataplane, Vec::new());
    assert_eq!(next.session(), 2);
    assert_eq!(next.submit(&Command::Commit), Ok(0));
    assert_eq!(dataplane.poll(), Ok(Some((0, Command::Commit))));
}

#[test]
fn the_parked_region_waits_for_the_next_ike() {
    let mut dataplane = DataplaneSide::create(&sizes()).unwrap();
    let preparation = || IkePreparation::new(&CommandSizes::default()).unwrap();
    let park = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    let first = preparation().hello(Some(park()), Vec::new()).unwrap();
    assert!(dataplane.attach(first).unwrap().park.is_none());
    dataplane.detach();
    for _ in 0..2 {
        let next = preparation().hello(None, Vec::new()).unwrap();
        assert!(dataplane.attach(next).unwrap().park.is_some());
    }
}

#[test]
fn a_hello_with_other_descriptors_is_refused() {
    let mut dataplane = DataplaneSide::create(&sizes()).unwrap();
    let good = |d: &DataplaneSide| d.states.region.read_only_fd().unwrap();
    let preparation = IkePreparation::new(&CommandSizes::default()).unwrap();
    let hello = || preparation.hello(None, Vec::new()).unwrap();
    let commands = good(&dataplane);
    let error = dataplane
        .attach(Hello {
            commands,
            ..hello()
        })
        .unwrap_err();
    assert!(
        matches!(
            error,
            SideError::Shm(ShmError::Header { field: "magic", .. })
        ),
        "{error}"
    );
    let doorbell = good(&dataplane);
    let error = dataplane
        .attach(Hello {
            doorbell,
            ..hello()
        })
        .unwrap_err();
    assert_eq!(error, SideError::Session(SessionError::Message("doorbell")));
    let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    let error = dataplane
        .attach(Hello {
            commands: null(),
            ..hello()
        })
        .unwrap_err();
    assert_eq!(error, SideError::Shm(ShmError::NotSealed));
    assert!(!dataplane.is_attached());
    let older = vec![null(), good(&dataplane)];
    dataplane.attach(Hello { older, ..hello() }).unwrap();
    assert!(
        dataplane.elders().is_empty(),
        "unusable regions and our own are left out"
    );
}

#[test]
fn header_words_are_checked_one_by_one() {
    for (at, field) in [
        (region::word::VERSION, "version"),
        (region::word::RECORD_BYTES, "record bytes"),
        (region::word::FEATURES, "feature bits"),
        (region::word::WORDS, "size in words"),
        (region::word::SIZES, "shards"),
        (region::word::SIZES + 3, "counter owners"),
        (region::word::SIZES + 4, "event capacity"),
        (region::word::SIZES + 5, "window units"),
        (region::word::SIZES + 6, "counter block words"),
        (region::word::SIZES + 7, "row words"),
    ] {
        for bad in [u64::MAX, u64::from(u32::MAX)] {
            let dataplane = DataplaneSide::create(&sizes()).unwrap();
            let region = &dataplane.states.region;
            region.words()[at].store(bad, Ordering::Relaxed);
            match StateView::map(region.read_only_fd().unwrap())
                .err()
                .unwrap()
            {
                ShmError::Header { field: found, .. } => assert_eq!(found, field),
                other => panic!("{field}: {other}"),
            }
        }
    }
}

fn new_row(index: u16, direction: Direction) -> NewRow {
    let id = id(index);
    let (esn, fingerprint, sequence) = (false, 0xfeed, 0);
    NewRow {
        id,
        spi: id.0,
        direction,
        esn,
        fingerprint,
        sequence,
        newest_bits: 0,
        window: None,
    }
}

fn name(row: &NewRow) -> KeyName {
    KeyName {
        id: row.id,
        spi: row.spi,
        direction: row.direction,
        fingerprint: row.fingerprint,
    }
}

#[test]
fn rows_and_counters_are_seen_by_ike() {
    let (dataplane, ike) = pair();
    let states = dataplane.states();
    let new = new_row(3, Direction::Outbound);
    let row = states.row_of(new.id).unwrap();
    row.install(&new);
    assert_eq!(row.take_sequence(5, u64::from(u32::MAX)), Some(0));
    let update = row.update();
    update.traffic(5, 500, 12);
    update.mapping([192, 0, 2, 7].into(), 4501);
    update.finish();
    assert!(row.raise(Flags::SOFT));
    assert!(!row.raise(Flags::SOFT));
    let seen = ike.state().snapshot(new.id).unwrap();
    assert_eq!(
        (seen.sequence, seen.packets, seen.bytes, seen.last_used_ms),
        (5, 5, 500, 12)
    );
    assert_eq!(seen.mapping, Some(([192, 0, 2, 7].into(), 4501)));
    let flagged: Vec<_> = ike.state().flagged().map(|row| row.id).collect();
    assert_eq!(flagged, [new.id]);
    let mut counts = Counts::new();
    counts.add(Counter::Rx, 3);
    assert!(states.publish(0, &counts));
    assert!(states.publish(2, &counts));
    assert!(!states.publish(3, &counts));
    assert_eq!(ike.state().totals().get(Counter::Rx), 6);
    assert_eq!(ike.state().totals_of(2).get(Counter::Rx), 3);
    assert_eq!(ike.state().totals_of(3).get(Counter::Rx), 0);
}

/// A region as a dead dataplane left it.
fn dead(make: impl FnOnce(&DataplaneSide)) -> OwnedFd {
    let dataplane = DataplaneSide::create(&sizes()).unwrap();
    make(&dataplane);
    dataplane.states.region.read_only_fd().unwrap()
}

fn elders(fds: Vec<OwnedFd>) -> Elders {
    Elders::new(
        fds.into_iter()
            .map(|fd| StateView::map(fd).unwrap())
            .collect(),
    )
}

#[test]
fn a_successor_goes_on_where_the_dead_one_stopped() {
    let inbound = new_row(1, Direction::Inbound);
    let left = dead(|dataplane| {
        let mut windows = Windows::new(dataplane.states());
        let slot = windows.allocate(dataplane.states(), 1024).unwrap();
        let row = dataplane.states().row_of(inbound.id).unwrap();
        row.install(&NewRow {
            window: Some(slot),
            ..inbound
        });
        let update = row.update();
        dataplane.states().window(slot)[15].store(0b101, Ordering::Relaxed);
        let [highest, bits] = row.newest();
        highest.store(77, Ordering::Relaxed);
        bits.store(0b1001, Ordering::Relaxed);
        update.traffic(2, 200, 5);
        update.finish();
        row.raise(Flags::SOFT);
    });
    let mut next = DataplaneSide::create(&sizes()).unwrap();
    attach(&mut next, vec![left]);
    assert_eq!(next.elders().len(), 1);
    let adopted = next.elders().find(&name(&inbound)).unwrap();
    assert_eq!((adopted.row.sequence, adopted.window[15]), (77, 0b101));
    let row = next.states().row_of(inbound.id).unwrap();
    row.install_adopted(&inbound, &adopted.row);
    let snapshot = row.snapshot().unwrap();
    assert_eq!((snapshot.sequence, snapshot.newest_bits), (77, 0b1001));
    assert_eq!((snapshot.packets, snapshot.bytes), (2, 200));
    assert!(snapshot.flags.has(Flags::SOFT) && snapshot.flags.has(Flags::INBOUND));
}

#[test]
fn what_is_not_certain_is_not_adopted() {
    let new = new_row(1, Direction::Outbound);
    let install = |dataplane: &DataplaneSide| {
        dataplane.states().row_of(new.id).unwrap().install(&new);
    };
    let find = |left: OwnedFd, key: &KeyName| elders(vec![left]).find(key).map(|_| ());
    let key = name(&new);
    assert_eq!(find(dead(install), &key), Ok(()));
    assert_eq!(find(dead(|_| ()), &key), Err(Uncertain::Unknown));
    let fingerprint = KeyName {
        fingerprint: 1,
        ..key
    };
    assert_eq!(find(dead(install), &fingerprint), Err(Uncertain::Unknown));
    let other_spi = KeyName {
        spi: key.spi ^ 1,
        ..key
    };
    assert_eq!(find(dead(install), &other_spi), Err(Uncertain::Unknown));
    let direction = KeyName {
        direction: Direction::Inbound,
        ..key
    };
    assert_eq!(find(dead(install), &direction), Err(Uncertain::Mismatch));
    let broken_off = dead(|dataplane| {
        install(dataplane);
        drop(dataplane.states().row_of(new.id).unwrap().update());
    });
    assert_eq!(find(broken_off, &key), Err(Uncertain::Odd));
    let broken_twice = dead(|dataplane| {
        install(dataplane);
        let row = dataplane.states().row_of(new.id).unwrap();
        drop(row.update());
        row.update().finish();
        assert!(!row.is_certain());
    });
    assert_eq!(find(broken_twice, &key), Err(Uncertain::Odd));
    let deleted = dead(|dataplane| {
        install(dataplane);
        dataplane.states().row_of(new.id).unwrap().retire();
    });
    assert_eq!(find(deleted, &key), Err(Uncertain::Deleted));
}

#[test]
fn the_newest_region_that_knows_the_key_decides() {
    let new = new_row(1, Direction::Outbound);
    let with = |sequence: u64| {
        dead(|dataplane| {
            dataplane
                .states()
                .row_of(new.id)
                .unwrap()
                .install(&NewRow { sequence, ..new });
        })
    };
    let (oldest, newer) = (with(10), with(20));
    let ignorant = dead(|_| ());
    let all = elders(vec![oldest, newer, ignorant]);
    assert_eq!(all.find(&name(&new)).unwrap().row.sequence, 20);
    let oldest = with(10);
    let odd = dead(|dataplane| {
        let row = dataplane.states().row_of(new.id).unwrap();
        row.install(&new);
        drop(row.update());
    });
    assert_eq!(
        elders(vec![oldest, odd]).find(&name(&new)),
        Err(Uncertain::Odd)
    );
}

#[test]
fn a_living_writer_keeps_its_keys() {
    let new = new_row(1, Direction::Outbound);
    let dataplane = DataplaneSide::create(&sizes()).unwrap();
    dataplane.states().row_of(new.id).unwrap().install(&new);
    let left = dataplane.states.region.read_only_fd().unwrap();
    let all = elders(vec![left]);
    assert_eq!(all.find(&name(&new)), Err(Uncertain::WriterLives));
    drop(dataplane);
    assert!(all.find(&name(&new)).is_ok());
}

#[test]
fn windows_are_rebuilt_from_the_rows() {
    let dataplane = DataplaneSide::create(&sizes()).unwrap();
    let states = dataplane.states();
    let mut windows = Windows::new(states);
    let slot = windows.allocate(states, 4096).unwrap();
    let new = NewRow {
        window: Some(slot),
        ..new_row(1, Direction::Inbound)
    };
    states.row_of(new.id).unwrap().install(&new);
    let mut again = Windows::new(states);
    let other = again.allocate(states, 4096).unwrap();
    assert_ne!(slot, other);
    assert_eq!(states.window(other).len(), 64);
    assert_eq!(windows.allocate(states, 0), None);
    assert_eq!(windows.allocate(states, 65_537), None);
    assert_eq!(
        windows.allocate(states, 64).map(|slot| slot.words()),
        Some(1)
    );
}

const SOCKET: &str = "CULVERT_API_TEST_SOCKET";

/// The other process of the test below: does nothing unless that test started it.
#[test]
fn dataplane_process() {
    let Ok(path) = std::env::var(SOCKET) else {
        return;
    };
    let listener = Listener::bind(std::path::Path::new(&path)).unwrap();
    let mut dataplane = DataplaneSide::create(&sizes()).unwrap();
    let connection = wait_for(|| listener.accept().unwrap());
    let Message::Hello(hello) = wait_for(|| connection.receive().unwrap()) else {
        panic!()
    };
    let welcome = dataplane.attach(hello).unwrap();
    connection.send(&Message::Welcome(welcome)).unwrap();
    let new = new_row(1, Direction::Outbound);
    let row = dataplane.states().row_of(new.id).unwrap();
    row.install(&new);
    row.take_sequence(41, u64::MAX).unwrap();
    loop {
        if let Some((number, _)) = dataplane.poll().unwrap() {
            dataplane.complete(number, Status::Ok).unwrap();
        }
        std::thread::yield_now();
    }
}

fn wait_for<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        match attempt() {
            Some(value) => return value,
            None => assert!(Instant::now() < end, "waited too long"),
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Kills its process when the test ends, however it ends.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn two_processes_shake_hands_and_one_survives_the_other() {
    let name_of = format!("culvert-api-side-{}", std::process::id());
    let dir = std::env::temp_dir().join(name_of);
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("dataplane.sock");
    let process = Process::new(std::env::current_exe().unwrap())
        .args(["--exact", "side::tests::dataplane_process"])
        .env(SOCKET, &path)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let process = Killed(process);
    let connection = wait_for(|| Connection::connect(&path).ok());
    assert_eq!(connection.peer_pid(), Some(process.0.id()));
    let preparation = IkePreparation::new(&CommandSizes::default()).unwrap();
    connection
        .send(&Message::Hello(
            preparation.hello(None, Vec::new()).unwrap(),
        ))
        .unwrap();
    let Message::Welcome(welcome) = wait_for(|| connection.receive().unwrap()) else {
        panic!()
    };
    let (mut ike, _) = preparation.start(welcome).unwrap();
    assert_eq!(ike.state().pid(), u64::from(process.0.id()));
    for n in 0..1_000 {
        let number = wait_for(|| ike.submit(&delete(n)).ok());
        let event = wait_for(|| ike.poll().unwrap());
        assert_eq!(
            event,
            Event::Completed {
                command: number,
                status: Status::Ok
            }
        );
    }
    let all = Elders::new(vec![ike.state().clone()]);
    let key = name(&new_row(1, Direction::Outbound));
    assert_eq!(all.find(&key), Err(Uncertain::WriterLives));
    drop(process);
    assert_eq!(connection.receive().err(), Some(SessionError::Closed));
    assert_eq!(all.find(&key).unwrap().row.sequence, 41);
    std::fs::remove_dir_all(dir).unwrap();
}
