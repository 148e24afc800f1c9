//! Policies beside a base, and what they keep from being deleted.

use super::*;

/// An outbound policy for one host.
fn host_policy(number: u32, priority: u32, action: Action) -> Policy {
    let host = AddrRange::single(std::net::Ipv4Addr::from_bits(0x0a00_0000 + number).into());
    let mut policy = policy(number, action);
    policy.priority = priority;
    policy.selector.remote = host;
    policy
}

/// What workers find for the host.
fn found_for(writer: &TablesWriter, host: u32) -> Option<PolicyId> {
    let flow = FlowV4 {
        remote: 0x0a00_0000 + host,
        ..FlowV4::default()
    };
    let snapshot = writer.tables().snapshot();
    let spd = snapshot.policies.outbound_spd();
    let found = spd.v4().lookup(&flow)?;
    spd.rule(found.rule).map(|rule| rule.id)
}

#[test]
fn changes_beside_a_large_base_count_until_a_new_base_is_made() {
    const HOSTS: u32 = 2000;
    let (mut writer, _side) = with_sa();
    status(&mut writer, Command::Begin { resync: false });
    for host in 1..=HOSTS {
        let policy = host_policy(host, 10, Action::Protect(ChildId(1)));
        assert_eq!(status(&mut writer, Command::PolicyAdd(policy)), Status::Ok);
    }
    status(&mut writer, Command::Commit);
    writer.publish();
    let base = |writer: &TablesWriter| writer.tables().snapshot().policies.base_len();
    assert_eq!(base(&writer), HOSTS as usize);
    let (mut bases, mut last) = (0, HOSTS as usize);
    for host in 1..=HOSTS {
        // One in four changes, two go, one is new and goes first.
        let command = match host % 4 {
            0 => Command::PolicyUpdate(host_policy(host, 20, Action::Bypass)),
            1 | 3 => Command::PolicyDelete(PolicyId(host)),
            _ => {
                let mut first = host_policy(host, 5, Action::Discard);
                first.id = PolicyId(HOSTS + host);
                Command::PolicyAdd(first)
            }
        };
        assert_eq!(status(&mut writer, command), Status::Ok);
        writer.publish();
        let expected = [Some(host), None, Some(HOSTS + host), None][(host % 4) as usize];
        assert_eq!(found_for(&writer, host), expected.map(PolicyId));
        assert_eq!(found_for(&writer, HOSTS), Some(PolicyId(HOSTS)));
        bases += u32::from(base(&writer) != last);
        last = base(&writer);
    }
    assert!((2..20).contains(&bases), "{bases} bases");
}

#[test]
fn a_child_is_busy_while_committed_or_staged_policies_name_it() {
    let (mut writer, _side) = writer();
    for command in [Command::PathAdd(path()), Command::ChildAdd(child())] {
        assert_eq!(status(&mut writer, command), Status::Ok);
    }
    let protect = || policy(1, Action::Protect(ChildId(1)));
    let child_delete = Command::ChildDelete(ChildId(1));
    let mut ends_with = |commands: &[Command], expected: Status| {
        for command in commands {
            assert_eq!(status(&mut writer, command.clone()), Status::Ok);
        }
        assert_eq!(status(&mut writer, child_delete.clone()), expected);
    };
    let begin = Command::Begin { resync: false };
    let (add, delete) = (
        Command::PolicyAdd(protect()),
        Command::PolicyDelete(PolicyId(1)),
    );
    let elsewhere = Command::PolicyUpdate(policy(1, Action::Bypass));
    ends_with(&[begin.clone(), add.clone()], Status::Busy);
    ends_with(&[Command::Commit], Status::Busy);
    ends_with(&[begin.clone(), delete.clone()], Status::Busy);
    ends_with(&[add.clone(), elsewhere.clone()], Status::Busy);
    ends_with(
        &[Command::PolicyUpdate(protect()), Command::Commit],
        Status::Busy,
    );
    ends_with(&[begin.clone(), elsewhere, Command::Commit], Status::Ok);
    let again = [
        Command::ChildAdd(child()),
        Command::PolicyUpdate(protect()),
        begin,
        delete,
    ];
    ends_with(&again, Status::Busy);
    ends_with(&[Command::Commit], Status::Ok);
}
