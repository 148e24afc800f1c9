//! Static SAs between two real gateways: one forwards for a host behind it, the other sends and
//! receives for itself, with the kind of route that leads its own traffic into a tunnel.
//!
//! ```text
//! host a ─── gateway g ═══ ESP ═══ gateway b (inner0: 10.3.0.1, fd00:3::1)
//! 10.1.0.2   10.2.0.1      10.2.0.2
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on stops"
)]

mod net;

use net::{Net, possible, wait_for};
use std::time::Duration;

const KEY_1: &str = "000102030405060708090a0b0c0d0e0f10111213";
const KEY_2: &str = "202122232425262728292a2b2c2d2e2f30313233";

/// A static SA as seen from one end.
fn tunnel(ends: (&str, &str), nets: (&str, &str), keys: [(&str, u32); 2], sequence: u64) -> String {
    let [(key_in, spi_in), (key_out, spi_out)] = keys;
    format!(
        "[[dataplane.static_sas]]\nname = \"site\"\nesp_proposal = \"aes128gcm16-esn\"\n\
         local = \"{}\"\nremote = \"{}\"\nlocal_ts = [{}]\nremote_ts = [{}]\n\
         [dataplane.static_sas.inbound]\nspi = {spi_in}\nkey = \"{key_in}\"\nsequence = {sequence}\n\
         [dataplane.static_sas.outbound]\nspi = {spi_out}\nkey = \"{key_out}\"\n\
         sequence = {sequence}\n",
        ends.0, ends.1, nets.0, nets.1
    )
}

const NET_A: &str = "\"10.1.0.0/24\", \"fd00:1::/64\"";
const NET_B: &str = "\"10.3.0.0/24\", \"fd00:3::/64\"";

fn config_g(net: &Net, sequence: u64) -> std::path::PathBuf {
    let keys = [(KEY_1, 4097), (KEY_2, 4098)];
    net.config(&tunnel(
        ("10.2.0.1", "10.2.0.2"),
        (NET_A, NET_B),
        keys,
        sequence,
    ))
}

fn config_b(net: &Net) -> std::path::PathBuf {
    let port = "[[dataplane.ports]]\nname = \"out\"\nside = \"outside\"\n\
                device = \"net_af_packet0,iface=eth0\"\n";
    let keys = [(KEY_2, 4098), (KEY_1, 4097)];
    let tunnel = tunnel(("10.2.0.2", "10.2.0.1"), (NET_B, NET_A), keys, 0);
    net.config_of("b", &format!("{port}{tunnel}"))
}

/// The inner network of gateway b, and the routes that lead to the tunnel.
fn own_traffic(net: &Net) {
    net.run(
        "b",
        "ip link add inner0 type bridge && ip link set inner0 up && \
         ip address add 10.3.0.1/24 dev inner0 && ip address add fd00:3::1/64 dev inner0 nodad && \
         ip neigh add 169.254.0.9 lladdr 02:00:00:00:00:09 dev cv-out nud permanent && \
         ip neigh add fe80::9 lladdr 02:00:00:00:00:09 dev cv-out nud permanent && \
         ip route add 10.1.0.0/24 via 169.254.0.9 dev cv-out onlink src 10.3.0.1 && \
         ip -6 route add fd00:1::/64 via fe80::9 dev cv-out src fd00:3::1",
    );
}

#[test]
fn ping_through_static_sas_for_a_host_and_for_the_gateway_itself() {
    if !possible() {
        return;
    }
    let net = Net::new();
    let g = net.start(&config_g(&net, 0));
    let b = net.start_in("b", &config_b(&net));
    own_traffic(&net);
    for (from, to) in [
        ("a", "10.3.0.1"),
        ("b", "10.1.0.2"),
        ("a", "fd00:3::1"),
        ("b", "fd00:1::2"),
    ] {
        assert!(net.reaches(from, to), "{from} to {to}");
    }
    let moved = format!("g: {}; b: {}", net.moved("g"), net.moved("b"));
    assert!(
        net.counter("encapsulated") >= 4 && net.counter("decapsulated") >= 4,
        "{moved}"
    );
    assert_eq!(net.counter("bypassed"), 0);
    // What should have been in ESP is refused in clear.
    assert!(!net.ping("b", "10.1.0.1 -I 10.2.0.2"));
    let sas = net.admin("sas").unwrap();
    assert_eq!(sas.as_array().unwrap().len(), 2, "{sas}");
    assert_eq!(sas[0]["name"], "site");
    assert_eq!(sas[0]["algorithm"], "AES_GCM_16-128/ESN");
    assert!(sas[0]["packets"].as_u64().unwrap() >= 4, "{sas}");
    wait_for("accounting", Duration::from_secs(2), || {
        net.unaccounted() == 0
    });
    assert!(g.stop() && b.stop());
}

#[test]
fn an_orderly_restart_goes_on_where_the_numbers_were_and_a_kill_asks_the_operator() {
    if !possible() {
        return;
    }
    let net = Net::new();
    let config = config_g(&net, 0);
    let g = net.start(&config);
    let _b = net.start_in("b", &config_b(&net));
    own_traffic(&net);
    assert!(net.reaches("a", "10.3.0.1"));
    let sequence = |net: &Net| net.admin("sas").unwrap()[1]["sequence"].as_u64().unwrap();
    let before = sequence(&net);
    assert!(g.stop());

    let again = net.start(&config);
    assert_eq!(
        sequence(&net),
        before,
        "not one number is lost or used again"
    );
    assert!(net.reaches("a", "10.3.0.1"));
    again.kill();

    let refused = net.output(&config, &[]);
    let words = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success());
    assert!(
        words.contains("static SA \"site\"") && words.contains("sequence"),
        "{words}"
    );

    // The operator says where both ends are.
    let _g = net.start(&config_g(&net, 1 << 30));
    assert!(sequence(&net) >= 1 << 30);
}

/// Sends a file by TCP from one namespace to an address of another; true if it arrives intact.
fn transfer(net: &Net, from: &str, (to, address): (&str, &str), mib: usize) -> bool {
    let dir = net.dir.display();
    let listen = format!(
        "import socket\ns = socket.create_server((\"{address}\", 7001), \
         family=socket.AF_INET6 if \":\" in \"{address}\" else socket.AF_INET)\n\
         c, _ = s.accept()\nwith open(\"{dir}/{from}.out\", \"wb\") as f:\n    \
         while True:\n        b = c.recv(65536)\n        if not b: break\n        f.write(b)\n"
    );
    let send = format!(
        "import socket, time\nfor _ in range(50):\n    try:\n        \
         c = socket.create_connection((\"{address}\", 7001), 5); break\n    \
         except OSError: time.sleep(0.05)\n\
         c.sendall(open(\"{dir}/{from}.in\", \"rb\").read())\nc.close()\n"
    );
    let (listen, send) = (
        net.write(&format!("{from}.l.py"), &listen),
        net.write(&format!("{from}.s.py"), &send),
    );
    net.run(
        from,
        &format!("head -c {mib}M /dev/urandom > {dir}/{from}.in"),
    );
    let mut receiver = std::process::Command::new("ip")
        .args(["netns", "exec", &net.ns(to), "python3"])
        .arg(listen)
        .spawn()
        .unwrap();
    let sent = net.succeeds(from, &format!("timeout 20 python3 {}", send.display()));
    if !sent {
        receiver.kill().unwrap();
    }
    receiver.wait().unwrap();
    sent && net.succeeds(from, &format!("cmp {dir}/{from}.in {dir}/{from}.out"))
}

#[test]
fn files_arrive_intact_though_every_full_segment_is_too_big_at_first() {
    if !possible() {
        return;
    }
    let net = Net::new();
    let _g = net.start(&config_g(&net, 0));
    let _b = net.start_in("b", &config_b(&net));
    own_traffic(&net);
    assert!(transfer(&net, "a", ("b", "10.3.0.1"), 4));
    assert!(transfer(&net, "b", ("a", "10.1.0.2"), 4));
    assert!(transfer(&net, "b", ("a", "fd00:1::2"), 2));
    assert!(
        net.counter("too_big_answered") > 0,
        "the host learned the MTU"
    );
    assert!(
        net.counter_of("b", "too_big_answered") > 0,
        "Linux behind the twin learned it"
    );
    for side in ["g", "b"] {
        assert_eq!(
            net.counter_of(side, "replayed") + net.counter_of(side, "auth_failed"),
            0
        );
    }
    wait_for("accounting", Duration::from_secs(2), || {
        net.unaccounted() == 0
    });
}
