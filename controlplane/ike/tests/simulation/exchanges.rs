//! One thing at a time, on a good network.

use super::*;

fn up(sim: &mut Sim, child: &str) {
    let request = sim.initiate(0, child);
    sim.run_for(1_000);
    assert_eq!(
        sim.result(0, request),
        Some(&Ok(())),
        "{}",
        sim.log.join("\n")
    );
}

fn ok(sim: &Sim, side: usize, request: u64) {
    assert_eq!(
        sim.result(side, request),
        Some(&Ok(())),
        "{}",
        sim.log.join("\n")
    );
}

fn reason(sim: &Sim, request: u64) -> Reason {
    let result = sim
        .result(0, request)
        .unwrap_or_else(|| panic!("{}", sim.log.join("\n")));
    result.as_ref().unwrap_err().reason
}

#[test]
fn the_first_child_comes_with_four_messages() {
    let mut sim = pair(1);
    up(&mut sim, "net");
    assert_eq!(sim.sent, 4);
    sim.check_rest();
    sim.traffic(true);
    assert_eq!(sim.pairs(0).len(), 1);
    // Once more is no work.
    up(&mut sim, "net");
    assert_eq!(sim.sent, 4);
}

#[test]
fn further_children_come_one_after_the_other() {
    let mut sim = pair(2);
    let requests = ["net", "pfs", "esn"].map(|name| sim.initiate(0, name));
    sim.run_for(1_000);
    for request in requests {
        ok(&sim, 0, request);
    }
    assert_eq!(sim.pairs(0).len(), 3);
    assert_eq!(sim.ike_sas(0).len(), 1);
    sim.traffic(true);
    sim.check_rest();
}

#[test]
fn an_ike_sa_without_child_is_childless() {
    let mut sim = pair(3);
    let verb = Verb::Initiate {
        connection: "conn".to_owned(),
        child: None,
    };
    let request = sim.command(0, verb);
    sim.run_for(1_000);
    ok(&sim, 0, request);
    assert_eq!((sim.ike_sas(0).len(), sim.pairs(0).len()), (1, 0));
    sim.check_rest();
    up(&mut sim, "pfs");
    assert_eq!(sim.ike_sas(0).len(), 1);
    sim.check_rest();
}

#[test]
fn each_side_rekeys_a_child_and_loses_no_packet() {
    for child in ["net", "pfs", "esn"] {
        let mut sim = pair(4);
        up(&mut sim, child);
        for side in [0, 1, 1, 0] {
            let before = sim.pairs(0);
            let request = sim.rekey_child(side, child);
            for _ in 0..40 {
                sim.traffic(true);
                sim.run_for(1);
            }
            ok(&sim, side, request);
            // The old inbound SA drains, then nothing of it is left.
            assert_eq!(sim.pairs(0).len(), 2);
            sim.run_for(6_000);
            assert_ne!(sim.pairs(0), before);
            sim.check_rest();
        }
    }
}

#[test]
fn each_side_rekeys_the_ike_sa_and_the_children_stay() {
    let mut sim = pair(5);
    up(&mut sim, "net");
    up(&mut sim, "pfs");
    let pairs = sim.pairs(0);
    for side in [0, 1, 1, 0] {
        let before = sim.ike_sas(0);
        let request = sim.rekey_ike(side);
        sim.run_for(1_000);
        ok(&sim, side, request);
        assert_ne!(sim.ike_sas(0), before);
        assert_eq!(sim.pairs(0), pairs);
        sim.check_rest();
    }
    let request = sim.rekey_child(1, "pfs");
    sim.run_for(10_000);
    ok(&sim, 1, request);
    sim.check_rest();
}

#[test]
fn simultaneous_child_rekeys_leave_one_pair() {
    for seed in 0..20 {
        let mut sim = pair(seed);
        up(&mut sim, "pfs");
        let requests = [sim.rekey_child(0, "pfs"), sim.rekey_child(1, "pfs")];
        for _ in 0..200 {
            sim.traffic(true);
            sim.run_for(1);
        }
        ok(&sim, 0, requests[0]);
        ok(&sim, 1, requests[1]);
        sim.run_for(10_000);
        sim.check_rest();
        assert_eq!(sim.pairs(0).len(), 1);
    }
}

#[test]
fn simultaneous_ike_rekeys_leave_one_ike_sa() {
    for seed in 0..20 {
        let mut sim = pair(seed);
        up(&mut sim, "net");
        let pairs = sim.pairs(0);
        let requests = [sim.rekey_ike(0), sim.rekey_ike(1)];
        sim.run_for(1_000);
        ok(&sim, 0, requests[0]);
        ok(&sim, 1, requests[1]);
        sim.run_for(10_000);
        sim.check_rest();
        assert_eq!((sim.ike_sas(0).len(), sim.pairs(0)), (1, pairs));
    }
}

#[test]
fn each_side_deletes_a_child_and_the_ike_sa() {
    for side in 0..2 {
        let mut sim = pair(6);
        up(&mut sim, "net");
        up(&mut sim, "pfs");
        let target = Target::ChildName {
            connection: None,
            child: "net".to_owned(),
        };
        let request = sim.command(side, Verb::Terminate(target));
        sim.run_for(1_000);
        ok(&sim, side, request);
        sim.check_rest();
        assert_eq!((sim.ike_sas(0).len(), sim.pairs(0).len()), (1, 1));
        let request = sim.command(side, Verb::Terminate(Target::Connection("conn".to_owned())));
        sim.run_for(1_000);
        ok(&sim, side, request);
        sim.check_rest();
        assert!(sim.ike_sas(0).is_empty());
    }
}

#[test]
fn both_sides_delete_the_same_child_at_once() {
    let mut sim = pair(7);
    up(&mut sim, "net");
    let target = || Target::ChildName {
        connection: None,
        child: "net".to_owned(),
    };
    let requests = [0, 1].map(|side| sim.command(side, Verb::Terminate(target())));
    sim.run_for(1_000);
    ok(&sim, 0, requests[0]);
    ok(&sim, 1, requests[1]);
    sim.check_rest();
    assert_eq!((sim.ike_sas(0).len(), sim.pairs(0).len()), (1, 0));
}

#[test]
fn a_dead_peer_is_noticed() {
    let mut sim = pair(8);
    up(&mut sim, "net");
    sim.faults = Faults {
        loss_percent: 100,
        ..Faults::NONE
    };
    sim.run_for(120_000);
    sim.check_rest();
    assert!(sim.ike_sas(0).is_empty());
}

#[test]
fn liveness_is_quiet_while_packets_come() {
    let mut sim = pair(9);
    up(&mut sim, "net");
    let sent = sim.sent;
    for _ in 0..100 {
        sim.traffic(true);
        sim.run_for(1_000);
    }
    assert_eq!(sim.sent, sent);
    sim.run_for(60_000);
    assert!(sim.sent > sent);
    sim.check_rest();
}

#[test]
fn a_wrong_secret_is_refused() {
    let (a, b) = (connection(1), connection(2));
    let mut sim = Sim::new(10, vec![a], vec![b], [secret("this"), secret("that")]);
    let request = sim.initiate(0, "net");
    sim.run_for(1_000);
    assert_eq!(reason(&sim, request), Reason::AuthenticationFailed);
    sim.run_for(60_000);
    sim.check_rest();
    assert!(sim.ike_sas(0).is_empty());
}

#[test]
fn a_wrong_identity_is_refused_by_either_side() {
    for wrong in 0..2 {
        let mut sim = pair_with(11, |side, connection| {
            if side == wrong {
                connection.remote_id = "somebody.example.org".parse().unwrap();
            }
        });
        let request = sim.initiate(0, "net");
        sim.run_for(1_000);
        assert_eq!(reason(&sim, request), Reason::AuthenticationFailed);
        sim.run_for(60_000);
        sim.check_rest();
        assert!(sim.ike_sas(0).is_empty());
    }
}

#[test]
fn an_initiator_refuses_a_responder_that_is_someone_else() {
    // The wildcard keeps IDr out of the request, so it is the initiator that has to notice.
    let mut sim = pair_with(12, |side, connection| {
        if side == 0 {
            connection.remote_id = "*.example.net".parse().unwrap();
        }
    });
    let request = sim.initiate(0, "net");
    sim.run_for(1_000);
    assert_eq!(reason(&sim, request), Reason::AuthenticationFailed);
    sim.check_rest();
    assert!(sim.ike_sas(1).is_empty(), "the responder heard of it");
}

#[test]
fn no_common_ike_proposal() {
    let mut sim = pair_with(13, |side, connection| {
        if side == 1 {
            connection.proposals =
                IkeProposal::parse_list(&["aes128gcm16-prfsha384-x25519"]).unwrap();
        }
    });
    let request = sim.initiate(0, "net");
    sim.run_for(1_000);
    assert_eq!(reason(&sim, request), Reason::NoProposalChosen);
    sim.check_rest();
}

#[test]
fn no_common_esp_proposal_leaves_the_ike_sa() {
    let mut sim = pair_with(14, |side, connection| {
        if side == 1 {
            connection.children = vec![child(2, "net", 0, "aes128gcm16")];
        }
    });
    let request = sim.initiate(0, "net");
    sim.run_for(1_000);
    assert_eq!(reason(&sim, request), Reason::NoProposalChosen);
    sim.check_rest();
    assert_eq!((sim.ike_sas(0).len(), sim.pairs(0).len()), (1, 0));
}

#[test]
fn selectors_that_do_not_meet_leave_the_ike_sa() {
    let mut sim = pair_with(15, |side, connection| {
        if side == 1 {
            connection.children = vec![child(2, "net", 9, "aes256gcm16")];
        }
    });
    for _ in 0..2 {
        // In IKE_AUTH, then in CREATE_CHILD_SA.
        let request = sim.initiate(0, "net");
        sim.run_for(1_000);
        assert_eq!(reason(&sim, request), Reason::TsUnacceptable);
        sim.check_rest();
        assert_eq!((sim.ike_sas(0).len(), sim.pairs(0).len()), (1, 0));
    }
}

#[test]
fn a_wide_initiator_is_narrowed_and_stays_so() {
    let mut sim = pair_with(16, |side, connection| {
        if side == 0 {
            let child = &mut connection.children[0];
            for (specs, net) in [
                (&mut child.local_ts, "10.1"),
                (&mut child.remote_ts, "10.2"),
            ] {
                let first = format!("{net}.0.0").parse().unwrap();
                let last = format!("{net}.255.255").parse().unwrap();
                *specs = vec![SelectorSpec::addresses(first, last)];
            }
        }
    });
    up(&mut sim, "net");
    for side in [0, 1] {
        let request = sim.rekey_child(side, "net");
        sim.run_for(10_000);
        ok(&sim, side, request);
        for one in &sim.sides {
            let view = &one.endpoint.list()[0].children[0];
            let pairs = view.selectors.pairs();
            // The first of the responder's nets that fits.
            assert_eq!(pairs.len(), 1);
            assert!(pairs[0].local.1 != pairs[0].local.0);
            assert!(pairs[0].local.1.to_string().ends_with(".0.255"));
        }
        sim.check_rest();
    }
}

#[test]
fn a_wrong_guess_of_the_group_costs_one_round_trip() {
    let mut sim = pair_with(17, |side, connection| {
        let text = match side {
            0 => "aes256gcm16-prfsha256-x25519-ecp256",
            _ => "aes256gcm16-prfsha256-ecp256",
        };
        connection.proposals = IkeProposal::parse_list(&[text]).unwrap();
        let text = match side {
            0 => "aes256gcm16-x25519-ecp256",
            _ => "aes256gcm16-ecp256",
        };
        connection.children = vec![child(side as u8 + 1, "net", 0, text)];
    });
    up(&mut sim, "net");
    assert_eq!(sim.sent, 6);
    for side in [0, 1] {
        let requests = [sim.rekey_child(side, "net"), sim.rekey_ike(side)];
        sim.run_for(10_000);
        for request in requests {
            ok(&sim, side, request);
        }
        sim.check_rest();
    }
}

#[test]
fn a_group_that_was_not_offered_ends_the_attempt() {
    let mut sim = pair_with(18, |side, connection| {
        let text = match side {
            0 => "aes256gcm16-prfsha256-x25519",
            _ => "aes256gcm16-prfsha256-ecp256",
        };
        connection.proposals = IkeProposal::parse_list(&[text]).unwrap();
    });
    let request = sim.initiate(0, "net");
    sim.run_for(1_000);
    assert_eq!(reason(&sim, request), Reason::NoProposalChosen);
}

#[test]
fn half_open_ike_sas_bring_cookies() {
    let mut sim = pair_with(19, |side, connection| {
        let text = match side {
            0 => "aes256gcm16-prfsha256-x25519-ecp256",
            _ => "aes256gcm16-prfsha256-ecp256",
        };
        connection.proposals = IkeProposal::parse_list(&[text]).unwrap();
    });
    // Every caller gets a cookie: one half-open IKE SA is enough.
    sim.set_settings(
        1,
        ike::config::Settings {
            cookie_threshold: 1,
            ..net::settings()
        },
    );
    let (mut a, b) = (connection(1), connection(2));
    a.proposals = IkeProposal::parse_list(&["aes256gcm16-prfsha256-ecp256"]).unwrap();
    let mut other = Sim::new(99, vec![a], vec![b], [secret("x"), secret("x")]);
    other.initiate(0, "net");
    // A first message of someone else, who never goes on.
    let stray = other.take_flight().unwrap();
    sim.inject(1, "192.0.2.1:999", &stray);
    let sent = sim.sent;
    let request = sim.initiate(0, "net");
    sim.run_for(1_000);
    ok(&sim, 0, request);
    assert_eq!(
        sim.sent - sent,
        8,
        "cookie and group each cost a round trip\n{}",
        sim.log.join("\n")
    );
}

#[test]
fn behind_a_nat_all_goes_to_port_4500() {
    let mut sim = pair_with(20, |side, connection| {
        if side == 1 {
            connection.remote_addrs.clear();
        }
    });
    sim.nat = Some(("203.0.113.9".parse().unwrap(), 20_000));
    up(&mut sim, "net");
    let views = [sim.sides[0].endpoint.list(), sim.sides[1].endpoint.list()];
    assert_eq!(views[0][0].remote.port(), 4500);
    assert!(views[0][0].nat_local && !views[0][0].nat_remote);
    assert_eq!(views[1][0].remote, "203.0.113.9:24500".parse().unwrap());
    assert!(views[1][0].nat_remote && !views[1][0].nat_local);
    assert!(views[0][0].children[0].udp_encapsulation);
    sim.run_for(65_000);
    assert_eq!((sim.sides[0].keepalives, sim.sides[1].keepalives), (3, 0));
    // The NAT takes another port; the responder follows the next authentic message.
    sim.nat = Some(("203.0.113.9".parse().unwrap(), 30_000));
    sim.run_for(60_000);
    let view = &sim.sides[1].endpoint.list()[0];
    assert_eq!(view.remote, "203.0.113.9:34500".parse().unwrap());
    for side in [0, 1] {
        let requests = [sim.rekey_child(side, "net"), sim.rekey_ike(side)];
        sim.run_for(10_000);
        for request in requests {
            ok(&sim, side, request);
        }
    }
    sim.check_rest();
}

#[test]
fn encap_forces_udp() {
    let mut sim = pair_with(21, |side, connection| connection.encap = side == 1);
    up(&mut sim, "net");
    for side in &sim.sides {
        assert!(side.endpoint.list()[0].children[0].udp_encapsulation);
        assert_eq!(side.endpoint.list()[0].local.port(), 4500);
    }
}

#[test]
fn lifetimes_rekey_by_themselves() {
    let mut sim = pair_with(22, |side, connection| {
        if side == 0 {
            connection.rekey_time_s = 50;
            for child in &mut connection.children {
                child.time_s = Lifetime {
                    rekey: 20,
                    life: Some(60),
                    rand: Some(5),
                };
            }
        }
    });
    up(&mut sim, "net");
    let (ike, pairs) = (sim.ike_sas(0), sim.pairs(0));
    for _ in 0..30 {
        sim.traffic(true);
        sim.run_for(1_000);
    }
    assert_ne!(sim.pairs(0), pairs);
    assert_eq!(sim.ike_sas(0), ike);
    sim.run_for(31_000);
    assert_ne!(sim.ike_sas(0), ike);
    assert_eq!(sim.ike_sas(0).len(), 1);
}

#[test]
fn equal_lifetimes_collide_and_survive() {
    let mut sim = pair_with(23, |_, connection| {
        connection.rekey_time_s = 30;
        connection.rand_time_s = Some(0);
        for child in &mut connection.children {
            child.time_s = Lifetime {
                rekey: 20,
                life: Some(100),
                rand: Some(0),
            };
        }
    });
    up(&mut sim, "net");
    for _ in 0..600 {
        sim.traffic(true);
        sim.run_for(500);
    }
    assert_eq!(sim.ike_sas(0).len(), 1, "{}", sim.log.join("\n"));
    assert_eq!(sim.sides[0].plane.children.len(), 1);
}

#[test]
fn a_rekey_by_volume() {
    let mut sim = pair(24);
    up(&mut sim, "net");
    let (pairs, child) = (sim.pairs(0), sim.sides[0].endpoint.list()[0].children[0].id);
    sim.event(
        0,
        ike::SaEvent::Expire {
            child,
            spi: pairs[0].0,
            hard: false,
        },
    );
    sim.run_for(10_000);
    assert_ne!(sim.pairs(0), pairs);
    sim.check_rest();
    let spi = sim.pairs(0)[0].0;
    sim.event(
        0,
        ike::SaEvent::Expire {
            child,
            spi,
            hard: true,
        },
    );
    sim.run_for(10_000);
    assert!(sim.pairs(0).is_empty());
    sim.check_rest();
}

#[test]
fn a_trap_calls_for_its_child() {
    let mut sim = pair_with(25, |side, connection| {
        connection.children[0].start_action.trap = side == 0;
    });
    let trap = *sim.sides[0].plane.traps.iter().next().unwrap();
    for _ in 0..3 {
        sim.event(0, ike::SaEvent::Acquire { child: trap });
    }
    sim.run_for(1_000);
    assert_eq!(sim.pairs(0).len(), 1);
    sim.check_rest();
}

#[test]
fn close_and_dpd_actions_start_again() {
    let mut sim = pair_with(26, |side, connection| {
        if side == 0 {
            connection.keyingtries = 0;
            connection.children[0].close_action = ike::config::Action::Start;
            connection.children[0].dpd_action = ike::config::Action::Start;
        }
    });
    up(&mut sim, "net");
    let target = Target::ChildName {
        connection: None,
        child: "net".to_owned(),
    };
    let pairs = sim.pairs(0);
    sim.command(1, Verb::Terminate(target));
    sim.run_for(1_000);
    assert_eq!(sim.pairs(0).len(), 1);
    assert_ne!(sim.pairs(0), pairs);
    sim.faults = Faults {
        loss_percent: 100,
        ..Faults::NONE
    };
    sim.run_for(200_000);
    sim.faults = Faults::NONE;
    sim.run_for(30_000);
    assert_eq!(sim.pairs(0).len(), 1);
    sim.check_rest();
}

#[test]
fn without_an_answer_the_command_fails() {
    let mut sim = pair(27);
    sim.faults = Faults {
        loss_percent: 100,
        ..Faults::NONE
    };
    let request = sim.initiate(0, "net");
    sim.run_for(120_000);
    assert_eq!(reason(&sim, request), Reason::Timeout);
    assert_eq!(sim.sent, 7);
    assert!(sim.sides[0].endpoint.is_idle());
}

#[test]
fn commands_that_cannot_work_say_why() {
    let mut sim = pair(28);
    let verb = Verb::Initiate {
        connection: "nobody".to_owned(),
        child: None,
    };
    let request = sim.command(0, verb);
    assert_eq!(reason(&sim, request), Reason::UnknownConnection);
    let request = sim.initiate(0, "nothing");
    assert_eq!(reason(&sim, request), Reason::UnknownChild);
    let request = sim.rekey_ike(0);
    assert_eq!(reason(&sim, request), Reason::NotFound);
}

#[test]
fn a_restart_keeps_everything() {
    for side in 0..2 {
        let mut sim = pair(29);
        up(&mut sim, "net");
        up(&mut sim, "pfs");
        let (ike, pairs) = (sim.ike_sas(0), sim.pairs(0));
        sim.restart(side);
        sim.run_for(30_000);
        assert_eq!((sim.ike_sas(0), sim.pairs(0)), (ike, pairs));
        sim.check_rest();
        let requests = [sim.rekey_child(side, "pfs"), sim.rekey_ike(side)];
        sim.run_for(10_000);
        for request in requests {
            ok(&sim, side, request);
        }
        sim.check_rest();
    }
}

#[test]
fn shutdown_deletes_everything() {
    let mut sim = pair(30);
    up(&mut sim, "net");
    sim.shutdown(1);
    sim.run_for(1_000);
    assert!(sim.sides.iter().all(|side| side.endpoint.is_idle()));
    sim.check_rest();
}

#[test]
fn a_checkpoint_that_is_not_one_is_not_restored() {
    let mut sim = pair(31);
    up(&mut sim, "net");
    let whole = sim.sides[0].checkpoints.values().next().unwrap().to_vec();
    for cut in [0, 1, 2, whole.len() / 2, whole.len() - 1] {
        let side = &mut sim.sides[0];
        let mut endpoint = ike::Endpoint::new(net::settings());
        endpoint.restore(ike::Time(0), &mut side.host, &[&whole[..cut]]);
        assert!(endpoint.list().is_empty(), "{cut} bytes");
    }
    let mut other_version = whole.clone();
    other_version[1] ^= 0xff;
    let mut endpoint = ike::Endpoint::new(net::settings());
    endpoint.restore(ike::Time(0), &mut sim.sides[0].host, &[&other_version]);
    assert!(endpoint.list().is_empty());
    endpoint.restore(ike::Time(0), &mut sim.sides[0].host, &[&whole]);
    assert_eq!(endpoint.list().len(), 1);
}

#[test]
fn mutated_messages_change_nothing() {
    let mut sim = pair(32);
    up(&mut sim, "net");
    let mut rng = net::Rng(32);
    let (ike, pairs) = (sim.ike_sas(0), sim.pairs(0));
    for round in 0..300 {
        if round % 100 == 0 {
            sim.rekey_child(0, "net");
        } else {
            sim.rekey_ike(0);
        }
        let Some(flight) = sim.take_flight() else {
            continue;
        };
        for _ in 0..10 {
            let mut bytes = flight.clone();
            let at = rng.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << rng.below(8);
            sim.inject(1, "192.0.2.1:500", &bytes);
            sim.inject(1, "192.0.2.1:500", &bytes[..at]);
        }
    }
    assert_eq!((sim.ike_sas(1), sim.pairs(1)), (ike, pairs));
}
