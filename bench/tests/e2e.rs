//! The real processes, two gateways, real traffic. As root; `CULVERT_E2E=full` for the long runs.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may")]

mod lab;

use std::time::{Duration, Instant};

use lab::{Lab, run, scaled};

/// What may never be seen outside the sites: anything to or from a protected address.
const CLEAR: &str =
    "not arp and (net 10.1.0.0/24 or net 10.2.0.0/24 or net fd00:1::/64 or net fd00:2::/64)";
const PACKETS_PER_S: u32 = 2000;

#[test]
fn rekeyed_children_lose_no_packet() {
    let lab = Lab::with_tunnel("children", &[]);
    let traffic = lab.traffic(PACKETS_PER_S);
    for number in 0..scaled(20, 1000) {
        let before = lab.inbound_spis("a");
        let who = if number % 2 == 0 { "a" } else { "b" };
        lab.culvert(who, &["rekey", "--child", "net", "--timeout", "20"]);
        assert_ne!(lab.inbound_spis("a"), before, "rekey {number}");
    }
    traffic.assert_all_arrived();
    assert_nothing_leaked(&lab);
}

#[test]
fn rekeyed_ike_sas_lose_no_packet_also_when_both_sides_start() {
    let lab = Lab::with_tunnel("ike", &[]);
    let traffic = lab.traffic(PACKETS_PER_S);
    for number in 0..scaled(6, 100) {
        let who = if number % 2 == 0 { "a" } else { "b" };
        lab.culvert(who, &["rekey", "--ike", "site", "--timeout", "20"]);
    }
    for number in 0..scaled(6, 100) {
        let what = if number % 2 == 0 {
            ["--child", "net"]
        } else {
            ["--ike", "site"]
        };
        std::thread::scope(|scope| {
            let rekey = |gateway| {
                let arguments = ["rekey", what[0], what[1], "--timeout", "20"];
                lab.culvert(gateway, &arguments)
            };
            let first = scope.spawn(move || rekey("a"));
            rekey("b");
            first.join().unwrap();
        });
    }
    traffic.assert_all_arrived();
    assert_nothing_leaked(&lab);
}

/// One IKE SA and one pair of SAs are left, on both sides the same, and every packet has its place.
fn assert_nothing_leaked(lab: &Lab) {
    for gateway in ["a", "b"] {
        // Old inbound SAs drain for a while.
        lab.wait_for("drained SAs", 20, || {
            let status = lab.json(gateway, &["status"]);
            status["dataplane"]["sas"] == 2
        });
        assert_eq!(
            lab.ike_sas(gateway).len(),
            1,
            "{}",
            lab.culvert(gateway, &["sas"])
        );
        assert_eq!(lab.inbound_spis(gateway).len(), 1);
        lab.assert_sums(gateway);
        lab.assert_nothing_overflowed();
    }
}

#[test]
fn ike_dies_and_no_packet_is_lost() {
    // A peer that gets no answer gives up within two seconds.
    let impatient = "retransmit_timeout = \"0.5\"\nretransmit_tries = 3\nretransmit_base = \"1\"";
    let lab = Lab::with_tunnel(
        "ikedies",
        &[
            ("CONN_EXTRA", "dpd_delay = \"4s\""),
            ("IKE_EXTRA", impatient),
        ],
    );
    let (spis, traffic) = (lab.inbound_spis("a"), lab.traffic(PACKETS_PER_S));
    lab.kill("ike-a");
    std::thread::sleep(Duration::from_secs(2));
    lab.start("ike-a");
    assert_eq!(lab.inbound_spis("a"), spis, "the same SAs");
    lab.culvert("a", &["rekey", "--child", "net", "--timeout", "20"]);
    assert_ne!(lab.inbound_spis("a"), spis, "rekeyed by name");
    lab.culvert("b", &["rekey", "--ike", "site", "--timeout", "20"]);
    traffic.assert_all_arrived();
    // Without traffic both ask whether the other lives; who gets no answer gives up.
    let capture = lab.capture("wire", "mid");
    std::thread::sleep(Duration::from_secs(10));
    assert_eq!((lab.ike_sas("a").len(), lab.ike_sas("b").len()), (1, 1));
    assert!(capture.count("udp port 500") >= 2, "nobody asked");
    lab.culvert("a", &["terminate", "--ike", "site", "--timeout", "20"]);
    assert!(lab.ike_sas("a").is_empty());
    lab.wait_for("the peer's end", 5, || lab.ike_sas("b").is_empty());
}

#[test]
fn handover_and_reload_leave_the_sas_in_place() {
    let lab = Lab::with_tunnel("handover", &[]);
    let (spis, traffic) = (lab.inbound_spis("a"), lab.traffic(PACKETS_PER_S));
    lab.culvert("a", &["handover"]);
    lab.wait_for("the end of culvert-ike", 5, || !lab.is_alive("ike-a"));
    lab.start("ike-a");
    assert_eq!(
        lab.inbound_spis("a"),
        spis,
        "the next process has the same SAs"
    );
    lab.culvert("a", &["reload"]);
    assert_eq!(lab.inbound_spis("a"), spis, "a reload changes no SA");
    let config = lab.dir().join("a.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("remote_ts", "remote_tss")).unwrap();
    lab.signal("ike-a", "-HUP");
    lab.wait_for("the faults in the log", 5, || {
        lab.logs().contains("remote_ts")
    });
    lab.culvert("b", &["rekey", "--child", "net", "--timeout", "20"]);
    traffic.assert_all_arrived();
    // SIGTERM deletes the SAs, and the peer learns it.
    lab.signal("ike-a", "-TERM");
    lab.wait_for("the peer's end", 5, || lab.ike_sas("b").is_empty());
}

#[test]
fn dataplane_dies_and_nothing_is_in_clear() {
    let lab = Lab::with_tunnel("dpdies", &[]);
    let (ike, spis) = (lab.ike_sas("a"), lab.inbound_spis("a"));
    let captures = [
        lab.capture("ga", "wan"),
        lab.capture("ga", "cv-wan"),
        lab.capture("wire", "mid"),
    ];
    let traffic = lab.traffic(PACKETS_PER_S);
    lab.kill("dataplane-a");
    std::thread::sleep(Duration::from_secs(2));
    lab.start("dataplane-a");
    let restarted = Instant::now();
    lab.wait_for("traffic again", 5, || {
        lab.inside("ha", &["ping", "-c", "1", "-W", "1", "10.2.0.10"])
            .status
            .success()
    });
    println!(
        "traffic {} ms after the restart",
        restarted.elapsed().as_millis()
    );
    std::thread::sleep(Duration::from_secs(1));
    let (a, b) = traffic.finish();
    println!("host a {a:?}, host b {b:?}");
    assert_eq!(
        (a.duplicates, b.duplicates),
        (0, 0),
        "no packet is taken twice"
    );
    for capture in captures {
        assert_eq!(capture.count(CLEAR), 0, "frames in clear");
    }
    // The same IKE SA, so there was no IKE_AUTH; certain state, so not even a rekey.
    assert_eq!(
        lab.ike_sas("a")[0]["spi_initiator"],
        ike[0]["spi_initiator"]
    );
    assert_eq!(lab.inbound_spis("a"), spis);
}

/// The control: without the rules that outlive the process the kernel does leak.
#[test]
fn without_the_rules_the_kernel_would_forward_in_clear() {
    let lab = Lab::with_tunnel("leak", &[]);
    let capture = lab.capture("wire", "mid");
    let traffic = lab.traffic(200);
    lab.kill("dataplane-a");
    // What an operator without culvert's rules would have: forwarding on and routes in place.
    let undo = "nft flush ruleset; \
        ip address add 192.0.2.1/24 dev wan; ip address add 10.1.0.1/24 dev lan; \
        ip route replace 10.2.0.0/24 via 192.0.2.2 dev wan; ip route del 10.1.0.0/24 dev cv-lan; \
        ip route replace 10.1.0.0/24 dev lan; sysctl -qw net.ipv4.ip_forward=1";
    lab.inside("ga", &["sh", "-c", undo]);
    std::thread::sleep(Duration::from_secs(2));
    drop(traffic);
    assert!(
        capture.count(CLEAR) > 0,
        "the control shows no leak, so the other test proves nothing"
    );
}

#[test]
fn files_arrive_intact_both_ways_at_once() {
    let lab = Lab::with_tunnel("files", &[]);
    let megabytes = scaled("16", "1024");
    std::thread::scope(|scope| {
        let lab = &lab;
        scope.spawn(move || transfer(lab, "ha", "hb", "10.2.0.10", megabytes));
        transfer(lab, "hb", "ha", "10.1.0.10", megabytes);
    });
    for gateway in ["a", "b"] {
        lab.assert_sums(gateway);
    }
}

fn transfer(lab: &Lab, from: &str, to: &str, address: &str, megabytes: &str) {
    let dir = lab.dir().to_str().unwrap();
    let make = format!("head -c {megabytes}M /dev/urandom > {dir}/from-{from}");
    assert!(run("sh", &["-c", &make]).status.success());
    let receive = format!(
        "ip netns exec {} timeout 900 socat -u TCP-LISTEN:7001,bind={address} CREATE:{dir}/at-{to} &
         sleep 0.5
         ip netns exec {} timeout 900 socat -u OPEN:{dir}/from-{from} TCP:{address}:7001 || exit 1
         wait; cmp {dir}/from-{from} {dir}/at-{to}",
        lab.namespace(to),
        lab.namespace(from),
    );
    let output = run("sh", &["-c", &receive]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_wrong_secret_and_other_selectors_make_no_tunnel() {
    let lab = Lab::up("wrong", &[]);
    let config = lab.dir().join("b.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(
        &config,
        text.replace("what only the two", "what only one of the"),
    )
    .unwrap();
    lab.start("all");
    let output = lab.inside(
        "ga",
        &[
            "sh",
            "-c",
            &format!(
                "{} --run-dir {}/a initiate --child net --timeout 10",
                std::env::current_exe()
                    .unwrap()
                    .parent()
                    .unwrap()
                    .parent()
                    .unwrap()
                    .join("culvert")
                    .display(),
                lab.dir().display()
            ),
        ],
    );
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).to_uppercase();
    assert!(said.contains("AUTH"), "{said}");
    assert!(lab.ike_sas("b").is_empty());
    assert!(
        !lab.inside("ha", &["ping", "-c", "1", "-W", "1", "10.2.0.10"])
            .status
            .success()
    );
}
