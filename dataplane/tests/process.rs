//! The real process in network namespaces: start and stop, takeover and release, the exception
//! path, and what the kernel may not do while it runs or is dead.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod net;

use net::{Net, possible, wait_for};
use std::time::Duration;

const BYPASS: &str = "\
    [[dataplane.policies]]\nname = \"v4\"\naction = \"bypass\"\n\
    local_ts = \"0.0.0.0/0\"\nremote_ts = \"0.0.0.0/0\"\n\
    [[dataplane.policies]]\nname = \"v6\"\naction = \"bypass\"\n\
    local_ts = \"::/0\"\nremote_ts = \"::/0\"\n";

#[test]
fn a_bypass_policy_lets_ping_through_and_every_packet_is_accounted_for() {
    if !possible() {
        return;
    }
    let net = Net::new();
    let dataplane = net.start(&net.config(BYPASS));
    for (from, to) in [("a", "10.2.0.2"), ("b", "10.1.0.2"), ("a", "fd00:2::2")] {
        assert!(net.reaches(from, to), "{from} to {to}");
    }
    // The gateway itself, through its twins.
    for (from, to) in [("a", "10.1.0.1"), ("b", "fd00:2::1"), ("g", "10.2.0.2")] {
        assert!(net.reaches(from, to), "{from} to {to}");
    }
    assert!(net.counter("punted") > 0 && net.counter("injected") > 0);
    wait_for("accounting", Duration::from_secs(2), || {
        net.unaccounted() == 0
    });
    assert!(dataplane.stop());
}

#[test]
fn without_policies_nothing_passes_and_the_kernel_forwards_nothing_either() {
    if !possible() {
        return;
    }
    let net = Net::new();
    assert!(
        net.reaches("a", "10.2.0.2"),
        "control: the kernel forwards before the start"
    );
    let dataplane = net.start(&net.config(""));
    assert!(!net.ping("a", "10.2.0.2"));
    assert!(net.counter("not_ready") + net.counter("no_policy") > 0);
    dataplane.kill();
    assert!(
        net.run("g", "nft list ruleset")
            .contains("hook ingress device \"eth0\"")
    );
    assert!(net.run("g", "ip route").contains("10.2.0.0/24 dev cv-out"));
    assert!(!net.ping("a", "10.2.0.2"), "dead, it fails closed");
}

#[test]
fn release_restores_exactly_what_was_there() {
    if !possible() {
        return;
    }
    let net = Net::new();
    net.run(
        "g",
        "ip address add 10.1.0.11/24 dev eth0 label eth0:1; \
         ip route add default via 10.2.0.2; \
         ip route add 10.9.0.0/16 via 10.8.0.1 dev eth0 onlink metric 77; \
         ip route add 10.7.0.0/16 nexthop via 10.1.0.2 dev eth0 nexthop via 10.1.0.3 dev eth0; \
         ip -6 route add default via fd00:2::2",
    );
    let before = net.gateway_state();
    let config = net.config(BYPASS);

    assert!(net.start(&config).stop());
    assert_ne!(
        net.gateway_state(),
        before,
        "twins stay after an orderly stop"
    );
    let moved = net.run("g", "ip route");
    assert!(moved.contains("default via 10.2.0.2 dev cv-out"), "{moved}");
    assert!(
        moved.contains("10.9.0.0/16 via 10.8.0.1 dev cv-in metric 77 onlink"),
        "{moved}"
    );

    // A restart after SIGKILL finds its way, too.
    net.start(&config).kill();
    let again = net.start(&config);
    assert!(net.reaches("a", "10.2.0.2"));
    let busy = net.output(&config, &["--release"]);
    assert!(
        !busy.status.success(),
        "a running dataplane is not released"
    );
    again.kill();

    let released = net.output(&config, &["--release"]);
    assert!(
        released.status.success(),
        "{}",
        String::from_utf8_lossy(&released.stderr)
    );
    assert_eq!(net.changes_since(&before), Vec::<String>::new());
    assert_eq!(net.gateway_state(), before, "in the same order");
    assert!(net.reaches("a", "10.2.0.2"), "the kernel forwards again");
    assert!(
        net.output(&config, &["--release"]).status.success(),
        "once more does no harm"
    );
}

#[test]
fn a_wrong_device_ends_the_start_with_its_name() {
    if !possible() {
        return;
    }
    let net = Net::new();
    let text = "[dataplane]\nrun_dir = \"/tmp/nowhere\"\nhuge = false\n\
                [[dataplane.ports]]\nname = \"x\"\nside = \"inside\"\ntwin = false\n\
                device = \"net_af_packet0,iface=eth77\"\n";
    let run_dir = net.run_dir("g").display().to_string();
    let config = net.write("bad.toml", &text.replace("/tmp/nowhere", &run_dir));
    let output = net.output(&config, &[]);
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(words.contains("eth77"), "{words}");

    let output = net.output(&net.dir.join("missing.toml"), &[]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("missing.toml"));
}

#[test]
fn a_second_dataplane_is_refused_the_run_directory() {
    if !possible() {
        return;
    }
    let net = Net::new();
    let config = net.config(BYPASS);
    let mut first = net.start(&config);
    let second = net.output(&config, &[]);
    assert!(!second.status.success());
    let words = String::from_utf8_lossy(&second.stderr);
    assert!(words.contains("dataplane.lock"), "{words}");
    assert!(first.lives() && net.reaches("a", "10.2.0.2"));
}

#[test]
fn a_device_that_disappears_is_counted_and_the_others_work_on() {
    if !possible() {
        return;
    }
    let net = Net::new();
    let mut dataplane = net.start(&net.config(BYPASS));
    net.run("b", "ip link del eth0");
    wait_for("loss of the port", Duration::from_secs(5), || {
        let ports = net.admin("ports").unwrap();
        ports
            .as_array()
            .unwrap()
            .iter()
            .any(|port| port["link_up"] == false)
    });
    assert!(dataplane.lives());
    assert!(net.reaches("a", "10.1.0.1"));
    assert!(dataplane.stop());
}

#[test]
fn the_admin_socket_answers_in_the_documented_form() {
    if !possible() {
        return;
    }
    let net = Net::new();
    let text = std::fs::read_to_string(net.config(BYPASS)).unwrap();
    let with = "[dataplane]\ncrypto_workers = 1";
    let config = net.write("crypto.toml", &text.replacen("[dataplane]", with, 1));
    let _dataplane = net.start(&config);
    assert!(net.reaches("a", "10.2.0.2"));
    let status = net.admin("status").unwrap();
    let crypto = status["crypto_workers"].as_array().unwrap();
    assert_eq!(crypto.len(), 1);
    assert!(crypto[0]["core"].is_u64() && crypto[0]["busy_percent"].is_u64());
    assert_eq!(status["committed"], true);
    assert_eq!(status["ike_connected"], false);
    assert_eq!(status["workers"].as_array().unwrap().len(), 1);
    let ports = net.admin("ports").unwrap();
    assert_eq!(ports[0]["name"], "in");
    assert_eq!(ports[0]["twin"], "cv-in");
    assert!(ports[0]["rx_packets"].as_u64().unwrap() > 0);
    let policies = net.admin("policies").unwrap();
    assert_eq!(
        policies.as_array().unwrap().len(),
        4,
        "two families, two directions"
    );
    let routes = net.admin("routes").unwrap();
    let has =
        |route: &&serde_json::Value| route["prefix"] == "10.2.0.0/24" && route["port"] == "out";
    assert!(
        routes.as_array().unwrap().iter().find(has).is_some(),
        "{routes}"
    );
    let neighbours = net.admin("neighbours").unwrap();
    let has = |row: &&serde_json::Value| row["address"] == "10.2.0.2" && row["mac"].is_string();
    assert!(
        neighbours.as_array().unwrap().iter().find(has).is_some(),
        "{neighbours}"
    );
    assert_eq!(net.admin("sas").unwrap().as_array().unwrap().len(), 0);
    assert!(net.admin("keys").is_none());
    let mode = net.run(
        "g",
        &format!(
            "stat -c %a {}/dataplane-admin.sock",
            net.run_dir("g").display()
        ),
    );
    assert_eq!(mode.trim(), "600");
}

#[test]
fn without_nft_there_is_no_start() {
    if !possible() {
        return;
    }
    let net = Net::new();
    let config = net.config(BYPASS);
    let line = format!(
        "env PATH=/nonexistent {} -c {} 2>&1",
        env!("CARGO_BIN_EXE_culvert-dataplane"),
        config.display()
    );
    let words = net.run("g", &format!("{line} && echo started || true"));
    assert!(
        words.contains("install nftables") && !words.contains("started"),
        "{words}"
    );
}

#[test]
fn routes_and_neighbours_follow_the_kernel() {
    if !possible() {
        return;
    }
    let net = Net::new();
    let dataplane = net.start(&net.config(BYPASS));
    net.run("b", "ip address add 10.5.0.1/32 dev lo");
    assert!(!net.ping("a", "10.5.0.1"));
    net.run("g", "ip route add 10.5.0.0/24 via 10.2.0.2");
    wait_for("new route", Duration::from_secs(2), || {
        net.ping("a", "10.5.0.1")
    });
    net.run("g", "ip route replace blackhole 10.5.0.0/24");
    wait_for("blackhole", Duration::from_secs(2), || {
        !net.ping("a", "10.5.0.1")
    });
    assert!(net.counter("discard_route") > 0);

    // Nobody answers for this one: its packets wait, then are dropped with a reason.
    assert!(!net.ping("a", "10.2.0.77"));
    wait_for("patience", Duration::from_secs(3), || {
        net.counter("neighbour_unresolved") > 0
    });
    wait_for("accounting", Duration::from_secs(3), || {
        net.unaccounted() == 0
    });

    // A neighbour that the kernel forgets stays as last known.
    assert!(net.reaches("a", "10.2.0.2"));
    net.run("b", "sysctl -qw net.ipv4.conf.all.arp_ignore=8");
    net.run("g", "ip neigh flush dev cv-out");
    assert!(net.reaches("a", "10.2.0.2"));
    assert!(dataplane.stop());
}

#[test]
fn two_workers_share_the_ports() {
    if !possible() {
        return;
    }
    let net = Net::new();
    let config = net.config(BYPASS);
    let text = std::fs::read_to_string(&config).unwrap();
    let config = net.write(
        "two.toml",
        &text.replacen("[dataplane]", "[dataplane]\nworkers = 2", 1),
    );
    let dataplane = net.start(&config);
    for (from, to) in [("a", "10.2.0.2"), ("b", "fd00:1::2"), ("g", "10.1.0.2")] {
        assert!(net.reaches(from, to), "{from} to {to}");
    }
    wait_for("accounting", Duration::from_secs(2), || {
        net.unaccounted() == 0
    });
    assert_eq!(
        net.admin("status").unwrap()["workers"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    assert!(dataplane.stop());
}
