//! Whatever happens in whatever order: at rest both sides agree.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::*;
use net::Rng;

/// Seeds of each run; more by `IKE_SEEDS`.
const SEEDS: u64 = 700;

fn for_seeds(run: fn(u64)) {
    let first: u64 = std::env::var("IKE_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(0);
    let count = std::env::var("IKE_SEEDS")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(SEEDS);
    let count = if std::env::var("IKE_SEED").is_ok() {
        1
    } else {
        count
    };
    for seed in first..first + count {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(seed))) {
            eprintln!("failed with IKE_SEED={seed}");
            resume_unwind(panic);
        }
    }
}

fn random_command(sim: &mut Sim, rng: &mut Rng) {
    let side = rng.below(2) as usize;
    let child = ["net", "pfs", "esn"][rng.below(3) as usize];
    let by_name = || Target::ChildName {
        connection: None,
        child: child.to_owned(),
    };
    match rng.below(12) {
        0..=2 => {
            sim.initiate(side, child);
        }
        3..=6 => {
            sim.rekey_child(side, child);
            if rng.chance(60) {
                sim.rekey_child(1 - side, child);
            }
        }
        7..=8 => {
            sim.rekey_ike(side);
            if rng.chance(60) {
                sim.rekey_ike(1 - side);
            }
        }
        9..=10 => {
            sim.command(side, Verb::Terminate(by_name()));
            if rng.chance(40) {
                sim.command(1 - side, Verb::Terminate(by_name()));
            }
        }
        _ if rng.chance(30) => {
            sim.command(side, Verb::Terminate(Target::Connection("conn".to_owned())));
        }
        _ => {
            sim.initiate(side, child);
        }
    }
}

/// The first guess of one side at the key exchange method is always wrong.
fn other_groups(seed: u64) -> Sim {
    pair_with(seed, |side, connection| {
        let groups = ["x25519-ecp256", "ecp256"][side];
        let text = format!("aes256-sha256-{groups}");
        connection.proposals = IkeProposal::parse_list(&[text]).unwrap();
        let text = format!("aes256gcm16-{groups}");
        connection.children[1] = child([1, 2][side], "pfs", 1, &text);
    })
}

/// Everything settles, whatever has happened.
fn rest(sim: &mut Sim) {
    sim.faults = Faults::NONE;
    sim.run_for(400_000);
    sim.check_rest();
    sim.traffic(true);
    let open = (0..2).map(|side| sim.sides[side].done.len()).sum::<usize>();
    assert!(open > 0);
}

fn storm(seed: u64, faults: Faults, restarts: bool) {
    let mut sim = if seed.is_multiple_of(3) {
        other_groups(seed)
    } else {
        pair(seed)
    };
    sim.faults = faults;
    let mut rng = Rng(seed ^ 0x5eed);
    let side = rng.below(2) as usize;
    sim.initiate(side, "net");
    for _ in 0..4 + rng.below(8) {
        sim.run_for(if rng.chance(50) {
            rng.below(60)
        } else {
            rng.below(3_000)
        });
        random_command(&mut sim, &mut rng);
        sim.traffic(false);
        if restarts && rng.chance(25) {
            sim.run_for(rng.below(40));
            sim.restart(rng.below(2) as usize);
        }
    }
    rest(&mut sim);
}

#[test]
fn on_a_good_network() {
    for_seeds(|seed| storm(seed, Faults::NONE, false));
}

#[test]
fn with_delay_and_reordering() {
    for_seeds(|seed| {
        storm(
            seed,
            Faults {
                loss_percent: 0,
                repeat_percent: 0,
                delay_ms: 300,
            },
            false,
        );
    });
}

#[test]
fn with_loss_and_repetition() {
    for_seeds(|seed| {
        storm(
            seed,
            Faults {
                loss_percent: 15,
                repeat_percent: 15,
                delay_ms: 200,
            },
            false,
        );
    });
}

#[test]
fn with_restarts() {
    for_seeds(|seed| {
        storm(
            seed,
            Faults {
                loss_percent: 10,
                repeat_percent: 10,
                delay_ms: 100,
            },
            true,
        );
    });
}

/// While nothing but rekeys happens, no packet of either side goes astray, on any network.
#[test]
fn rekeys_lose_no_packet() {
    for_seeds(|seed| {
        let mut sim = pair(seed);
        let mut rng = Rng(seed ^ 0xfeed);
        for child in ["net", "pfs"] {
            sim.initiate(0, child);
        }
        sim.run_for(2_000);
        sim.faults = Faults {
            loss_percent: 0,
            repeat_percent: 10,
            delay_ms: rng.below(150),
        };
        for _ in 0..6 {
            let side = rng.below(2) as usize;
            let child = ["net", "pfs"][rng.below(2) as usize];
            match rng.below(4) {
                0 => {
                    sim.rekey_child(side, child);
                }
                1 => {
                    sim.rekey_child(0, child);
                    sim.run_for(rng.below(100));
                    sim.rekey_child(1, child);
                }
                2 => {
                    sim.rekey_ike(side);
                }
                _ => {
                    sim.rekey_ike(0);
                    sim.run_for(rng.below(100));
                    sim.rekey_ike(1);
                }
            }
            for _ in 0..rng.below(400) {
                sim.traffic(true);
                sim.run_for(5);
            }
        }
        assert_eq!(
            sim.sides[0].plane.children.len(),
            2,
            "{}",
            sim.log.join("\n")
        );
        rest(&mut sim);
    });
}

/// Lifetimes that end all the time on both sides, on a bad network.
#[test]
fn lifetimes_that_collide() {
    for_seeds(|seed| {
        let mut rng = Rng(seed ^ 0x71e5);
        let (child_s, ike_s) = (3 + rng.below(8), 5 + rng.below(12));
        let mut sim = pair_with(seed, |_, connection| {
            connection.rekey_time_s = ike_s;
            connection.over_time_s = Some(600);
            connection.rand_time_s = Some(seed % 3);
            for child in &mut connection.children {
                let (life, rand) = (Some(600), Some(seed % 2));
                child.time_s = Lifetime {
                    rekey: child_s,
                    life,
                    rand,
                };
            }
        });
        for side in 0..2 {
            let settings = ike::config::Settings {
                drain_s: 1,
                ..net::settings()
            };
            sim.set_settings(side, settings);
        }
        for child in ["net", "pfs"] {
            sim.initiate(0, child);
        }
        sim.run_for(2_000);
        sim.faults = Faults {
            loss_percent: seed % 10,
            repeat_percent: 5,
            delay_ms: 120,
        };
        for _ in 0..120 {
            sim.traffic(true);
            sim.run_for(500);
        }
        sim.faults = Faults::NONE;
        let calm = (0..2_000).any(|_| {
            sim.run_for(100);
            sim.is_calm()
        });
        assert!(calm, "{}", sim.log.join("\n"));
        sim.check_rest();
        assert_eq!(
            (sim.ike_sas(0).len(), sim.pairs(0).len()),
            (1, 2),
            "{}",
            sim.log.join("\n")
        );
    });
}
