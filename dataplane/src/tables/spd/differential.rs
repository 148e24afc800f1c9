//! Random policies and flows: every fast path against a scan in order, through changes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use api::id::{ChildId, Interface, PathId, PolicyId, Vrf};
use api::selector::{ANY_PORTS, AddrRange, OPAQUE_PORTS, Selector};

use super::*;
use crate::tables::address::Address;
use crate::tables::child::PathSlot;
use crate::tables::flow_cache::FlowCache;
use crate::tables::random::Random;
use crate::tables::samples;

const SLOTS: u32 = 12;

fn child(number: u32) -> Arc<Child> {
    let path = Arc::new(PathSlot::new(samples::path(PathId(1))));
    let record = samples::child(ChildId(100 + number));
    Arc::new(Child::new(record, path, number))
}

/// An address of a small world, so that policies overlap and flows hit them.
fn address(random: &mut Random, v4: bool) -> IpAddr {
    let low = random.below(64);
    let net = random.below(4);
    if v4 {
        let base = [0x0a00_0000, 0x0a00_0100, 0xc0a8_0000, 0xffff_ffc0][random.at(4)];
        let spread = if random.one_in(8) { net << 16 } else { 0 };
        IpAddr::V4((base + spread % 0x40_0000 * u32::from(base < 0xff00_0000) + low).into())
    } else {
        let base = [
            0_u128,
            0x2001_0db8 << 96,
            (0x2001_0db8 << 96) | 1 << 64,
            u128::MAX - 63,
        ];
        IpAddr::V6((base[random.at(4)] + u128::from(low)).into())
    }
}

fn range(random: &mut Random, v4: bool) -> AddrRange {
    let (a, b) = (address(random, v4), address(random, v4));
    match random.below(8) {
        0 => AddrRange::all(a),
        1 | 2 => AddrRange::single(a),
        3 => AddrRange {
            first: a.min(b),
            last: a.max(b),
        },
        _ => prefix(random, a),
    }
}

fn prefix(random: &mut Random, of: IpAddr) -> AddrRange {
    let host_bits = [1, 2, 4, 6, 8, 16, 20][random.at(7)];
    match of {
        IpAddr::V4(v4) => {
            let mask = u32::prefix_mask(32 - host_bits);
            AddrRange {
                first: IpAddr::V4((v4.to_bits() & mask).into()),
                last: IpAddr::V4((v4.to_bits() | !mask).into()),
            }
        }
        IpAddr::V6(v6) => {
            let mask = u128::prefix_mask(128 - 4 * host_bits);
            AddrRange {
                first: IpAddr::V6((v6.to_bits() & mask).into()),
                last: IpAddr::V6((v6.to_bits() | !mask).into()),
            }
        }
    }
}

fn port_range(random: &mut Random) -> (u16, u16) {
    match random.below(6) {
        0 => OPAQUE_PORTS,
        1 => (0, random.port()),
        2 => {
            let (a, b) = (random.port(), random.port());
            (a.min(b), a.max(b))
        }
        3 => (80, 80),
        _ => ANY_PORTS,
    }
}

fn rule(random: &mut Random, id: u32, children: &[Arc<Child>]) -> Rule {
    let v4 = random.one_in(2);
    let decision = match random.below(4) {
        0 => Decision::Bypass,
        1 => Decision::Discard,
        _ => Decision::Protect(Arc::clone(&children[random.at(children.len())])),
    };
    Rule {
        id: PolicyId(id),
        priority: random.below(5),
        vrf: Vrf([0, 0, 0, 7][random.at(4)]),
        interface: Interface([0, 0, 1, 2][random.at(4)]),
        selector: Selector {
            local: range(random, v4),
            remote: range(random, v4),
            protocol: [0, 0, 6, 17][random.at(4)],
            local_ports: port_range(random),
            remote_ports: port_range(random),
        },
        decision,
    }
}

fn flow(random: &mut Random, rules: &BTreeMap<u32, Rule>) -> Flow {
    let v4 = random.one_in(2);
    let some = rules.values().nth(random.at(rules.len().max(1)));
    let (mut local, mut remote) = (address(random, v4), address(random, v4));
    if let Some(rule) = some.filter(|_| !random.one_in(3)) {
        let edges = [rule.selector.local, rule.selector.remote];
        let [at, to] = edges.map(|range| [range.first, range.last][random.at(2)]);
        (local, remote) = (at, to);
    }
    let ports = (!random.one_in(4)).then(|| Ports {
        local: random.port(),
        remote: random.port(),
    });
    Flow {
        vrf: Vrf([0, 0, 0, 7][random.at(4)]),
        interface: Interface(u16::try_from(random.below(3)).unwrap()),
        local,
        remote,
        protocol: [6, 17, 1][random.at(3)],
        ports,
    }
}

/// The flow with another value of one field: what a cache must not take for the same.
fn twin(random: &mut Random, flow: Flow) -> Flow {
    let v4 = flow.local.is_ipv4();
    let ports = (!random.one_in(3)).then(|| Ports {
        local: random.port(),
        remote: random.port(),
    });
    let (vrf, interface) = (Vrf(flow.vrf.0 ^ 7), Interface(flow.interface.0 ^ 1));
    match random.below(6) {
        0 => Flow { vrf, ..flow },
        1 => Flow { interface, ..flow },
        2 => Flow {
            local: address(random, v4),
            ..flow
        },
        3 => Flow {
            remote: address(random, v4),
            ..flow
        },
        4 => Flow {
            protocol: flow.protocol ^ 23,
            ..flow
        },
        _ => Flow { ports, ..flow },
    }
}

fn ordered(rules: &BTreeMap<u32, Rule>) -> Vec<&Rule> {
    let mut rules: Vec<&Rule> = rules.values().collect();
    rules.sort_by_key(|rule| (rule.priority, rule.id.0));
    rules
}

fn verdict(rule: &Rule) -> Verdict {
    match &rule.decision {
        Decision::Protect(child) => Verdict::Protect { slot: child.slot },
        Decision::Bypass => Verdict::Bypass,
        Decision::Discard => Verdict::Discard,
    }
}

/// Every way to ask gives the same answer.
fn fast<A: Address>(index: &Index<A>, cache: &mut FlowCache, flow: &FlowOf<A>) -> Option<Match> {
    let probe = index.prepare(flow);
    let found = index.finish(probe, flow);
    for _ in 0..2 {
        let place = cache.prepare(flow);
        assert_eq!(cache.find(place, index, flow), found, "cache");
    }
    found
}

fn compare(spd: &Spd, rules: &[&Rule], cache: &mut FlowCache, flow: &Flow) {
    let expected = rules.iter().find(|rule| rule.matches(flow));
    let found = match FlowV4::of(flow) {
        Some(flow) => fast(spd.v4(), cache, &flow),
        None => fast(spd.v6(), cache, &FlowV6::of(flow).unwrap()),
    };
    let found_id = found.map(|found| spd.rule(found.rule).unwrap().id);
    assert_eq!(found_id, expected.map(|rule| rule.id));
    assert_eq!(spd.lookup(flow).map(|rule| rule.id), found_id);
    assert_eq!(
        found.map(|found| found.verdict),
        expected.map(|rule| verdict(rule))
    );
}

fn compare_carried(policies: &Policies, rules: &[&Rule], child: &Child, flow: &Flow) {
    let is_its = |rule: &&&Rule| matches!(&rule.decision, Decision::Protect(c) if c.id == child.id);
    let expected = rules.iter().filter(is_its).any(|rule| rule.matches(flow));
    let carries = match FlowV4::of(flow) {
        Some(flow) => policies.carries_v4(child.slot, &flow),
        None => policies.carries_v6(child.slot, &FlowV6::of(flow).unwrap()),
    };
    assert_eq!(carries, expected, "child {}", child.id);
    assert_eq!(policies.child_carries(child.id, flow), expected);
}

/// Policies of both directions, by number.
type Sides = [BTreeMap<u32, Rule>; 2];

/// What `now` has otherwise than the base. Rules that are the same may be among it.
fn changes(random: &mut Random, base: &BTreeMap<u32, Rule>, now: &BTreeMap<u32, Rule>) -> Changes {
    let same = |id: &u32| match (base.get(id), now.get(id)) {
        (Some(a), Some(b)) => format!("{a:?}") == format!("{b:?}"),
        (a, b) => a.is_none() && b.is_none(),
    };
    let ids: BTreeSet<u32> = base.keys().chain(now.keys()).copied().collect();
    let ids: Vec<u32> = ids
        .into_iter()
        .filter(|id| !same(id) || random.one_in(16))
        .collect();
    let gone = ids.iter().filter_map(|id| base.get(id));
    Changes {
        gone: gone.map(|rule| (rule.priority, rule.id)).collect(),
        rules: ids.iter().filter_map(|id| now.get(id).cloned()).collect(),
    }
}

/// Compares all ways to ask with a scan.
fn compare_all(
    policies: &Policies,
    rules: &Sides,
    caches: &mut [FlowCache; 2],
    flows: &[Flow],
    child: impl Fn(usize) -> Arc<Child>,
) {
    let [inbound, outbound] = rules.each_ref().map(ordered);
    let [inward, outward] = caches;
    for (n, flow) in flows.iter().enumerate() {
        if flow.local.is_ipv4() != flow.remote.is_ipv4() {
            assert!(policies.inbound(flow).is_none());
            continue;
        }
        compare(policies.inbound_spd(), &inbound, inward, flow);
        compare(policies.outbound_spd(), &outbound, outward, flow);
        compare_carried(policies, &inbound, &child(n), flow);
    }
}

/// One run: `size` policies each way, changed again and again, and put in order anew each time or
/// beside a base that is several versions old.
fn run(seed: u64, size: usize) {
    println!("seed {seed}, {size} policies");
    let mut random = Random::new(seed);
    let children: Vec<_> = (0..SLOTS).map(child).collect();
    let mut rules: Sides = Sides::default();
    // Where all flows have one place, each meets the one before it.
    let places = if seed & 1 == 0 { 1 } else { 64 };
    let mut caches = [places; 2].map(FlowCache::with_flows);
    let mut changed_caches = [places; 2].map(FlowCache::with_flows);
    let mut flows: Vec<Flow> = Vec::new();
    let mut base = (rules.clone(), Policies::default());
    for version in 0..12 {
        for side in &mut rules {
            let changes = if version == 0 { size } else { size / 8 + 1 };
            for _ in 0..changes {
                let id = random.below(u32::try_from(size).unwrap() * 2 + 1);
                if version > 0 && random.one_in(3) {
                    side.remove(&id);
                } else {
                    side.insert(id, rule(&mut random, id, &children));
                }
            }
        }
        let [inbound, outbound] = rules.each_ref().map(|r| r.values().cloned().collect());
        let policies = Policies::new(inbound, outbound);
        let [inbound, outbound] = [0, 1].map(|side| {
            let (base, now): (&Sides, _) = (&base.0, &rules);
            changes(&mut random, &base[side], &now[side])
        });
        let changed = base.1.with(inbound, outbound);
        // Half of the flows were asked for in the version before.
        flows.truncate(100);
        flows.extend((0..100).map(|_| flow(&mut random, &rules[0])));
        for _ in 0..100 {
            let flow = flow(&mut random, &rules[1]);
            flows.extend([flow, twin(&mut random, flow)]);
        }
        let at = random.at(children.len());
        let child = |n: usize| Arc::clone(&children[(at + n) % children.len()]);
        compare_all(&policies, &rules, &mut caches, &flows, child);
        compare_all(&changed, &rules, &mut changed_caches, &flows, child);
        // Changes are those of the base, whichever version they are given to.
        base.1 = match version % 5 {
            0 => policies,
            _ => changed,
        };
        if version % 5 == 0 {
            base.0 = rules.clone();
        }
    }
}

#[test]
fn every_fast_path_agrees_with_a_scan() {
    let start = Random::seed();
    for n in 0..16 {
        for size in [0, 1, 3, 20, 150] {
            run(start.wrapping_add(n), size);
        }
    }
}

/// Few rules a child, so that most have one record.
#[test]
fn one_rule_a_child_fits_its_record() {
    let start = Random::seed();
    for n in 0..200 {
        run(start.wrapping_add(n), 6);
    }
}

#[test]
fn searches_are_direct_until_groups_or_lists_are_many() {
    let mut random = Random::new(1);
    let base = Rule {
        vrf: Vrf(0),
        interface: Interface(0),
        ..rule(&mut random, 1, &[child(0)])
    };
    let with = |id: u32, local: &str, bits: u32, port: u16| {
        let first: std::net::Ipv4Addr = local.parse().unwrap();
        let last = first.to_bits() | !u32::prefix_mask(bits);
        let mut rule = base.clone();
        rule.id = PolicyId(id);
        rule.selector.local = AddrRange {
            first: first.into(),
            last: IpAddr::V4(last.into()),
        };
        rule.selector.remote = AddrRange::all(first.into());
        rule.selector.local_ports = (port, port);
        rule.selector.remote_ports = ANY_PORTS;
        rule
    };
    let direct = |rules| {
        Policies::new(Vec::new(), rules)
            .outbound_spd()
            .v4()
            .is_direct()
    };
    assert!(direct(Vec::new()));
    let hosts = |n: u8| with(n.into(), &format!("10.0.0.{n}"), 32, 1);
    assert!(direct((1..100).map(hosts).collect()));
    let lengths = |n: u32| with(n, "10.0.0.0", n, 1);
    assert!(direct((23..25).map(lengths).collect()));
    assert!(!direct((23..26).map(lengths).collect()));
    let ports = |n: u16| with(n.into(), "10.0.0.0", 8, n);
    assert!(direct((1..=5).map(ports).collect()));
    assert!(!direct((1..=6).map(ports).collect()));
}
