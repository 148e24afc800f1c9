//! Commands and what they do to the tables.

mod policies;

use std::sync::Arc;
use std::time::Duration;

use api::id::{ChildId, Geometry, Interface, PathId, PolicyId, SaId, Vrf};
use api::record::{
    Action, Algorithm, Child, Command, Direction, Field, Limits, Path, Policy, Row, Sa, SaKey,
    Status, Table,
};
use api::region::StateSizes;
use api::selector::AddrRange;
use api::side::DataplaneSide;
use api::state::{Elders, Flags, StateView};
use esp::replay::Verdict;

use super::TablesWriter;
use crate::state::State;
use crate::tables::sad::Way;
use crate::tables::samples;
use crate::tables::spd::{self, Flow, FlowV4};

fn writer() -> (TablesWriter, DataplaneSide) {
    let geometry = Geometry::new(64, 1, 4).unwrap();
    let side = DataplaneSide::create(&StateSizes::new(geometry, 1, 512)).unwrap();
    let state = Arc::new(State::new(side.states().clone()));
    (TablesWriter::new(geometry, 1, 0, state), side)
}

/// A writer with path 1, child 1 and its inbound SA.
fn with_sa() -> (TablesWriter, DataplaneSide) {
    let (mut writer, side) = writer();
    for command in [
        Command::PathAdd(path()),
        Command::ChildAdd(child()),
        Command::SaAdd(sa()),
    ] {
        assert_eq!(writer.apply(command).status, Status::Ok);
    }
    (writer, side)
}

fn path() -> Path {
    samples::path(PathId(1))
}

fn child() -> Child {
    samples::child(ChildId(1))
}

fn id(index: u16) -> SaId {
    SaId::new(1, index, 1).unwrap()
}

fn sa() -> Sa {
    Sa {
        id: id(1),
        child: ChildId(1),
        direction: Direction::Inbound,
        spi: id(1).0,
        algorithm: Algorithm::AesGcm16,
        key: SaKey::new(&[3; 20]).unwrap(),
        esn: false,
        window_bits: 64,
        start_sequence: 0,
        adopt: false,
        limits: Limits::default(),
    }
}

fn policy(number: u32, action: Action) -> Policy {
    samples::policy(PolicyId(number), action)
}

/// Where the SA's replay window lies.
fn slot(sa: &crate::tables::sad::Sa) -> Option<api::window::WindowSlot> {
    match sa.way {
        Way::Inbound { window, .. } => window,
        Way::Outbound { .. } => None,
    }
}

/// The policy that workers would find now.
fn found(writer: &TablesWriter) -> Option<PolicyId> {
    let flow = Flow {
        vrf: Vrf(0),
        interface: Interface(1),
        local: [10, 0, 0, 1].into(),
        remote: [10, 0, 0, 2].into(),
        protocol: 17,
        ports: None,
    };
    writer
        .tables()
        .snapshot()
        .policies
        .outbound(&flow)
        .map(|rule| rule.id)
}

fn status(writer: &mut TablesWriter, command: Command) -> Status {
    let status = writer.apply(command).status;
    writer.publish();
    status
}

#[test]
fn what_is_used_cannot_be_deleted() {
    let (mut writer, _side) = with_sa();
    assert_eq!(
        status(&mut writer, Command::PathDelete(PathId(1))),
        Status::Busy
    );
    assert_eq!(
        status(&mut writer, Command::ChildDelete(ChildId(1))),
        Status::Busy
    );
    let protect = policy(1, Action::Protect(ChildId(1)));
    assert_eq!(status(&mut writer, Command::PolicyAdd(protect)), Status::Ok);
    assert_eq!(status(&mut writer, Command::SaDelete(id(1))), Status::Ok);
    assert_eq!(
        status(&mut writer, Command::ChildDelete(ChildId(1))),
        Status::Busy,
        "a policy"
    );
    assert_eq!(
        status(&mut writer, Command::PolicyDelete(PolicyId(1))),
        Status::Ok
    );
    assert_eq!(
        status(&mut writer, Command::ChildDelete(ChildId(1))),
        Status::Ok
    );
    assert_eq!(
        status(&mut writer, Command::PathDelete(PathId(1))),
        Status::Ok
    );
    assert_eq!(
        status(&mut writer, Command::PathDelete(PathId(1))),
        Status::NotFound
    );
}

#[test]
fn the_same_again_exists_and_another_is_refused() {
    let (mut writer, _side) = with_sa();
    assert_eq!(
        status(&mut writer, Command::PathAdd(path())),
        Status::Exists
    );
    assert_eq!(
        status(&mut writer, Command::ChildAdd(child())),
        Status::Exists
    );
    assert_eq!(status(&mut writer, Command::SaAdd(sa())), Status::Exists);
    let other = Path {
        remote: [192, 0, 2, 9].into(),
        ..path()
    };
    assert_eq!(
        status(&mut writer, Command::PathAdd(other)),
        Status::Invalid(Field::PATH_ID)
    );
    let other = Child {
        cookie: 8,
        ..child()
    };
    assert_eq!(
        status(&mut writer, Command::ChildAdd(other)),
        Status::Invalid(Field::CHILD_ID)
    );
    let other = Sa {
        key: SaKey::new(&[4; 20]).unwrap(),
        ..sa()
    };
    assert_eq!(
        status(&mut writer, Command::SaAdd(other.clone())),
        Status::Busy
    );
    let other = Sa {
        adopt: true,
        ..other
    };
    assert_eq!(
        status(&mut writer, Command::SaAdd(other)),
        Status::Uncertain
    );
}

#[test]
fn objects_need_what_they_name() {
    let (mut writer, _side) = writer();
    let invalid = Status::Invalid;
    assert_eq!(
        status(&mut writer, Command::ChildAdd(child())),
        invalid(Field::CHILD_PATH)
    );
    assert_eq!(
        status(&mut writer, Command::SaAdd(sa())),
        invalid(Field::SA_CHILD)
    );
    let protect = policy(1, Action::Protect(ChildId(1)));
    assert_eq!(
        status(&mut writer, Command::PolicyAdd(protect)),
        invalid(Field::POLICY_CHILD)
    );
    let activate = Command::ActivateOutbound {
        child: ChildId(1),
        sa: id(1),
    };
    assert_eq!(status(&mut writer, activate), Status::NotFound);
    let far = SaId::new(900, 1, 1).unwrap();
    let far = Sa {
        id: far,
        spi: far.0,
        ..sa()
    };
    assert_eq!(
        status(&mut writer, Command::SaAdd(far)),
        invalid(Field::SA_ID)
    );
}

#[test]
fn policies_switch_at_commit_and_not_before() {
    let (mut writer, _side) = writer();
    assert!(!writer.tables().snapshot().committed);
    assert_eq!(
        status(&mut writer, Command::Begin { resync: false }),
        Status::Ok
    );
    assert_eq!(
        status(&mut writer, Command::PolicyAdd(policy(1, Action::Bypass))),
        Status::Ok
    );
    assert_eq!(found(&writer), None);
    assert!(!writer.tables().snapshot().committed);
    assert_eq!(status(&mut writer, Command::Commit), Status::Ok);
    assert_eq!(found(&writer), Some(PolicyId(1)));
    assert!(writer.tables().snapshot().committed);
    assert_eq!(
        status(&mut writer, Command::Commit),
        Status::Invalid(Field::BATCH)
    );
}

#[test]
fn a_begin_whose_author_died_leaves_no_trace() {
    let (mut writer, _side) = with_sa();
    status(&mut writer, Command::Begin { resync: true });
    status(
        &mut writer,
        Command::PolicyAdd(policy(1, Action::Protect(ChildId(1)))),
    );
    writer.abandon();
    writer.publish();
    assert_eq!(found(&writer), None);
    assert!(writer.sa(id(1)).is_some());
    assert_eq!(writer.apply(Command::SaDelete(id(1))).deleted, [id(1)]);
    assert_eq!(
        status(&mut writer, Command::ChildDelete(ChildId(1))),
        Status::Ok
    );
}

#[test]
fn a_resync_deletes_what_it_does_not_name() {
    let (mut writer, _side) = with_sa();
    let second = Sa {
        id: id(2),
        spi: id(2).0,
        ..sa()
    };
    status(&mut writer, Command::SaAdd(second));
    status(
        &mut writer,
        Command::PathAdd(Path {
            id: PathId(2),
            ..path()
        }),
    );
    status(&mut writer, Command::PolicyAdd(policy(1, Action::Bypass)));
    let fixed = Policy {
        id: PolicyId::fixed(0),
        ..policy(9, Action::Discard)
    };
    status(&mut writer, Command::PolicyAdd(fixed));
    status(&mut writer, Command::Begin { resync: true });
    for again in [
        Command::PathAdd(path()),
        Command::ChildAdd(child()),
        Command::SaAdd(sa()),
    ] {
        assert_eq!(status(&mut writer, again), Status::Exists);
    }
    let outcome = writer.apply(Command::Commit);
    writer.publish();
    assert_eq!((outcome.status, outcome.deleted), (Status::Ok, vec![id(2)]));
    assert_eq!(
        found(&writer),
        Some(PolicyId::fixed(0)),
        "configuration stays"
    );
    assert!(writer.sa(id(1)).is_some());
    assert!(writer.sa(id(2)).is_none());
    assert_eq!(
        status(&mut writer, Command::PathDelete(PathId(2))),
        Status::NotFound
    );
}

#[test]
fn a_row_is_free_only_after_its_release() {
    let (mut writer, _side) = with_sa();
    status(&mut writer, Command::SaDelete(id(1)));
    let next = SaId::new(1, 1, 2).unwrap();
    let next = Sa {
        id: next,
        spi: next.0,
        ..sa()
    };
    assert_eq!(
        status(&mut writer, Command::SaAdd(next.clone())),
        Status::Busy
    );
    writer.release(id(1));
    assert_eq!(status(&mut writer, Command::SaAdd(next)), Status::Ok);
}

/// The slot in what workers see of the only outbound policy.
fn protecting_slot(writer: &TablesWriter) -> Option<u32> {
    let flow = FlowV4::default();
    let snapshot = writer.tables().snapshot();
    match snapshot.policies.outbound_spd().v4().lookup(&flow)?.verdict {
        spd::Verdict::Protect { slot } => Some(slot),
        spd::Verdict::Bypass | spd::Verdict::Discard => None,
    }
}

#[test]
fn no_child_takes_the_slot_of_one_that_a_worker_may_still_protect_by() {
    let (mut writer, _side) = with_sa();
    let protect = |number: u32| policy(number, Action::Protect(ChildId(number)));
    let add = |writer: &mut TablesWriter, number: u32| {
        let child = Child {
            id: ChildId(number),
            ..child()
        };
        for command in [
            Command::ChildAdd(child),
            Command::PolicyAdd(protect(number)),
        ] {
            assert_eq!(writer.apply(command).status, Status::Ok);
        }
    };
    let delete = |writer: &mut TablesWriter, number: u32| {
        for command in [
            Command::PolicyDelete(PolicyId(number)),
            Command::ChildDelete(ChildId(number)),
        ] {
            assert_eq!(writer.apply(command).status, Status::Ok);
        }
    };
    let tables = Arc::clone(writer.tables());
    add(&mut writer, 2);
    writer.publish();
    let first = protecting_slot(&writer);
    assert!(first.is_some());
    delete(&mut writer, 2);
    assert_eq!(protecting_slot(&writer), first, "not published");
    add(&mut writer, 3);
    let turn = tables.quiescence.enter(0);
    writer.publish();
    let second = protecting_slot(&writer);
    assert_ne!(second, first);
    delete(&mut writer, 3);
    add(&mut writer, 4);
    writer.publish();
    let third = protecting_slot(&writer);
    assert!(third != first && third != second, "a worker is at work");
    drop(turn);
    delete(&mut writer, 4);
    add(&mut writer, 5);
    writer.publish();
    assert!([first, second].contains(&protecting_slot(&writer)));
}

#[test]
fn an_old_version_is_not_left_for_a_worker_to_free() {
    let (mut writer, _side) = with_sa();
    status(&mut writer, Command::PolicyAdd(policy(1, Action::Bypass)));
    let tables = Arc::clone(writer.tables());
    let turn = tables.quiescence.enter(0);
    let seen = tables.snapshot();
    let policies = Arc::downgrade(&seen.policies);
    status(&mut writer, Command::PolicyDelete(PolicyId(1)));
    writer.publish();
    drop(seen);
    assert!(policies.upgrade().is_some());
    drop(turn);
    writer.publish();
    assert!(policies.upgrade().is_none());
}

#[test]
fn window_memory_can_run_out_and_comes_back() {
    let (mut writer, _side) = with_sa();
    let large = |index| Sa {
        id: id(index),
        spi: id(index).0,
        window_bits: 16_384,
        ..sa()
    };
    let mut index = 2;
    while status(&mut writer, Command::SaAdd(large(index))) == Status::Ok {
        index += 1;
    }
    assert!((3..64).contains(&index), "{index}");
    assert_eq!(
        status(&mut writer, Command::SaAdd(large(index))),
        Status::Full
    );
    status(&mut writer, Command::SaDelete(id(2)));
    writer.release(id(2));
    assert_eq!(
        status(&mut writer, Command::SaAdd(large(index))),
        Status::Ok
    );
}

#[test]
fn an_unknown_key_is_never_adopted() {
    let (mut writer, _side) = with_sa();
    let stranger = Sa {
        id: id(5),
        spi: id(5).0,
        adopt: true,
        ..sa()
    };
    assert_eq!(
        status(&mut writer, Command::SaAdd(stranger)),
        Status::Uncertain
    );
    assert!(writer.sa(id(5)).is_none());
}

#[test]
fn nothing_up_to_the_start_of_an_sa_is_fresh() {
    let (mut writer, side) = writer();
    let start = 1000;
    let started = Sa {
        start_sequence: start,
        ..sa()
    };
    for command in [
        Command::PathAdd(path()),
        Command::ChildAdd(child()),
        Command::SaAdd(started),
    ] {
        assert_eq!(status(&mut writer, command), Status::Ok);
    }
    let sa = writer.sa(id(1)).unwrap();
    let state = State::new(side.states().clone());
    let window = state.window(state.row(sa.row).unwrap(), slot(sa), 64);
    let window = window.unwrap();
    for seen in start - 63..=start {
        assert_eq!(window.check(seen), Verdict::Duplicate, "{seen}");
    }
    assert_eq!(window.commit(start + 2), Verdict::Fresh);
    assert_eq!(window.commit(start + 1), Verdict::Fresh);
    assert_eq!(window.commit(start), Verdict::Duplicate);
}

#[test]
fn a_row_that_a_worker_is_writing_is_waited_for() {
    let (mut writer, side) = with_sa();
    let row = writer.sa(id(1)).unwrap().row;
    let row = side.states().row(row).unwrap();
    let again = Sa {
        adopt: true,
        ..sa()
    };
    std::thread::scope(|scope| {
        let update = row.update();
        scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(3));
            update.finish();
        });
        let came = status(&mut writer, Command::SaAdd(again.clone()));
        assert_eq!(came, Status::Exists);
    });
    let _broken_off = row.update();
    let came = status(&mut writer, Command::SaAdd(again));
    assert_eq!(came, Status::Uncertain);
}

#[test]
fn a_new_path_settles_what_was_noticed_of_the_peers_address() {
    let (mut writer, side) = with_sa();
    let row = writer.sa(id(1)).unwrap().row;
    let row = side.states().row(row).unwrap();
    let moved = Path {
        remote: [192, 0, 2, 9].into(),
        ..path()
    };
    let update = row.update();
    update.mapping(moved.remote, 4500);
    update.finish();
    assert!(row.flags().has(Flags::MAPPING));
    let came = status(&mut writer, Command::PathUpdate(moved));
    assert_eq!(came, Status::Ok);
    assert!(!row.flags().has(Flags::MAPPING));
}

/// The region of another dataplane as IKE would hand it over.
fn handed_over(side: &DataplaneSide) -> Elders {
    let fd = side.states().view().read_only_fd().unwrap();
    Elders::new(vec![StateView::map(fd).unwrap()])
}

fn adopt(elders: Elders, sa: Sa) -> (Status, TablesWriter, DataplaneSide) {
    let (mut writer, side) = writer();
    writer.set_elders(elders);
    status(&mut writer, Command::PathAdd(path()));
    status(&mut writer, Command::ChildAdd(child()));
    let status = status(&mut writer, Command::SaAdd(Sa { adopt: true, ..sa }));
    (status, writer, side)
}

#[test]
fn a_region_whose_dataplane_lives_is_not_adopted() {
    let (_old, old_side) = with_sa();
    assert_eq!(adopt(handed_over(&old_side), sa()).0, Status::Uncertain);
}

#[test]
fn a_dead_dataplanes_sa_goes_on_where_it_was() {
    let (old, old_side) = with_sa();
    let old_sa = old.sa(id(1)).unwrap();
    let row = old_side.states().row(old_sa.row).unwrap();
    let living = State::new(old_side.states().clone());
    let window = living.window(row, slot(old_sa), 64).unwrap();
    let update = row.update();
    assert_eq!(window.commit(40), Verdict::Fresh);
    update.traffic(1, 100, 5);
    update.finish();
    let elders = handed_over(&old_side);
    drop((old, old_side, living));
    let (status, writer, side) = adopt(elders, sa());
    assert_eq!(status, Status::Ok);
    let sa = writer.sa(id(1)).unwrap();
    let state = State::new(side.states().clone());
    let row = state.row(sa.row).unwrap();
    assert_eq!((row.sequence(), row.packets(), row.bytes()), (40, 1, 100));
    let window = state.window(row, slot(sa), 64).unwrap();
    assert_eq!(window.check(40), Verdict::Duplicate);
    assert_eq!(window.check(39), Verdict::Fresh);
}

#[test]
fn what_a_kill_interrupted_or_another_key_is_not_adopted() {
    let (old, old_side) = with_sa();
    let old_sa = old.sa(id(1)).unwrap();
    let row = old_side.states().row(old_sa.row).unwrap();
    let _unfinished = row.update();
    let elders = handed_over(&old_side);
    drop((old, old_side));
    assert_eq!(adopt(elders.clone(), sa()).0, Status::Uncertain);
    let other = Sa {
        key: SaKey::new(&[4; 20]).unwrap(),
        ..sa()
    };
    assert_eq!(adopt(elders, other).0, Status::Uncertain);
}

#[test]
fn rows_answer_get_and_flush_empties_a_table() {
    let (mut writer, _side) = with_sa();
    let get = |table, id| Command::Get { table, id };
    assert_eq!(
        writer.apply(get(Table::Path, 1)).row,
        Some(Row::Path(path()))
    );
    assert_eq!(
        writer.apply(get(Table::Child, 1)).row,
        Some(Row::Child(child()))
    );
    assert_eq!(
        writer.apply(get(Table::Sa, id(1).0)).row,
        Some(Row::Sa(sa().info()))
    );
    assert_eq!(writer.apply(get(Table::Policy, 1)).status, Status::NotFound);
    assert_eq!(
        writer
            .apply(Command::Flush {
                table: Table::Child
            })
            .status,
        Status::Busy
    );
    assert_eq!(
        writer.apply(Command::Flush { table: Table::Sa }).deleted,
        [id(1)]
    );
    assert_eq!(
        writer
            .apply(Command::Flush {
                table: Table::Child
            })
            .status,
        Status::Ok
    );
    assert_eq!(
        writer.apply(Command::Flush { table: Table::Path }).status,
        Status::Ok
    );
}

#[test]
fn static_sas_are_found_by_spi_and_follow_their_path() {
    let (mut writer, _side) = with_sa();
    let fixed = SaId::new(api::id::STATIC_SHARD, 0, 0).unwrap();
    let fixed = Sa {
        id: fixed,
        spi: 0x1234_5678,
        ..sa()
    };
    assert_eq!(
        status(&mut writer, Command::SaAdd(fixed.clone())),
        Status::Ok
    );
    let local = path().local;
    let by_spi = |writer: &TablesWriter, vrf, local, spi| {
        let tables = writer.tables();
        let turn = tables.quiescence.enter(0).unwrap();
        let found = tables.sad.inbound(vrf, || local, spi, &turn);
        found.map(|sa| sa.id)
    };
    assert_eq!(by_spi(&writer, Vrf(0), local, fixed.spi), Some(fixed.id));
    assert_eq!(by_spi(&writer, Vrf(1), local, fixed.spi), None);
    assert_eq!(
        by_spi(&writer, Vrf(0), local, fixed.id.0),
        None,
        "its number is no SPI"
    );
    let twin = SaId::new(api::id::STATIC_SHARD, 1, 0).unwrap();
    let twin = Sa {
        id: twin,
        ..fixed.clone()
    };
    assert_eq!(
        status(&mut writer, Command::SaAdd(twin)),
        Status::Invalid(Field::SA_SPI)
    );
    let moved = Path {
        local: [192, 0, 2, 8].into(),
        ..path()
    };
    assert_eq!(
        status(&mut writer, Command::PathUpdate(moved.clone())),
        Status::Ok
    );
    assert_eq!(by_spi(&writer, Vrf(0), local, fixed.spi), None);
    assert_eq!(
        by_spi(&writer, Vrf(0), moved.local, fixed.spi),
        Some(fixed.id)
    );
}
