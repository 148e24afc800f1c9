//! A table of good and bad files with the faults they must give.

use std::path::Path;

use super::*;

const PORTS: &str = r#"
[[dataplane.ports]]
name = "inside"
device = "net_af_packet0,iface=veth-in"
side = "inside"

[[dataplane.ports]]
name = "outside"
device = "net_af_packet1,iface=veth-out"
side = "outside"
addresses = ["192.0.2.1/24", "2001:db8::1/64"]
"#;

const SA: &str = r#"
[[dataplane.static_sas]]
name = "lab"
local = "10.90.0.2"
remote = "10.90.0.1"
esp_proposal = "aes128gcm16-esn"
inbound = { spi = 0x1000_0009, key = "0x000102030405060708090a0b0c0d0e0f10111213", sequence = 0 }
outbound = { spi = 0x20000009, key = "fffefdfcfbfaf9f8f7f6f5f4f3f2f1f0efeeedec", sequence = 4294967295 }
replay_window = 1000
local_ts = "10.92.0.0/24, fd92::/64"
remote_ts = ["10.91.0.0/24", "fd91::/64"]
"#;

fn parse(text: &str) -> Result<(DataplaneConfig, Faults), Faults> {
    parse_dataplane(Path::new("t.toml"), text)
}

fn faults(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn state_lies_beside_a_run_directory_of_its_own() {
    let state_dir =
        |keys: &str| parse(&format!("[dataplane]\n{keys}{PORTS}")).map(|c| c.0.state_dir);
    let own = state_dir("run_dir = \"/run/a\"\n").unwrap();
    assert_eq!(own, Path::new("/run/a"));
    let said = state_dir("run_dir = \"/run/a\"\nstate_dir = \"/var/lib/a\"\n").unwrap();
    assert_eq!(said, Path::new("/var/lib/a"));
    let wrong = state_dir("state_dir = \"lib\"\n").unwrap_err();
    assert!(wrong.to_string().contains("dataplane.state_dir"));
}

#[test]
fn the_smallest_file_has_all_defaults() {
    let (config, warnings) = parse(&format!("[dataplane]\n{PORTS}")).unwrap();
    assert!(warnings.is_empty());
    assert_eq!(config.run_dir, Path::new("/run/culvert"));
    assert_eq!(config.state_dir, Path::new("/var/lib/culvert"));
    assert!(!config.awaits_ike);
    assert_eq!(config.workers, Workers::Count(1));
    assert_eq!(config.crypto_workers, Workers::Count(0));
    assert_eq!(config.huge, HugePages::Auto);
    assert_eq!(config.idle, Idle::Adaptive { max_latency_us: 50 });
    assert_eq!(config.max_sas, 16_384);
    assert_eq!(config.crypto_tier, None);
    assert!(!config.allow_static_keys && config.static_sas.is_empty());
    let outside = &config.ports[1];
    assert_eq!(
        (outside.interface, outside.side, outside.queues),
        (2, Side::Outside, 1)
    );
    assert_eq!(outside.twin.as_deref(), Some("cv-outside"));
    assert_eq!(outside.takeover.as_deref(), Some("veth-out"));
    assert_eq!(outside.addresses[1].bits, 64);
}

#[test]
fn every_key_of_the_section_is_taken() {
    let text = r#"
[dataplane]
run_dir = "/run/culvert-a"
log = "debug"
workers = [1, 0]
crypto_workers = [3]
huge = false
memory_mib = 64
plugins = ["/opt/librte_net_x.so"]
max_sas = 1048576
crypto_tier = "aesni"
idle = "busy"
allow_static_keys = true
default_policy = "discard"
[dataplane.exception_limits]
ike_init = 0
other = 7
[[dataplane.ports]]
name = "p"
device = "net_pcap0,rx_pcap=in.pcap,tx_pcap=out.pcap"
side = "inside"
twin = false
mtu = 9000
queues = 1
vrf = 3
[[dataplane.policies]]
name = "ospf"
action = "bypass"
direction = "in"
priority = 5
interface = "p"
vrf = 3
local_ts = "0.0.0.0/0[ospf]"
remote_ts = "0.0.0.0/0"
"#;
    let (config, _) = parse(&format!("{text}{SA}")).unwrap();
    assert_eq!(config.workers, Workers::Cores(vec![1, 0]));
    assert_eq!(config.crypto_workers, Workers::Cores(vec![3]));
    assert_eq!(config.crypto_tier, Some(CryptoTier::AesNi));
    assert_eq!((config.huge, config.idle), (HugePages::Never, Idle::Busy));
    assert_eq!(
        (
            config.exception_limits.ike_init,
            config.exception_limits.other
        ),
        (0, 7)
    );
    let port = &config.ports[0];
    assert_eq!(
        (&port.twin, &port.takeover, port.mtu_bytes),
        (&None, &None, Some(9_000))
    );
    assert_eq!(port.queues, 1);
    let policy = &config.policies[0];
    assert_eq!((policy.interface, policy.vrf, policy.priority), (1, 3, 5));
    assert_eq!(policy.action, StaticAction::Bypass);
    assert_eq!(policy.selectors[0].protocol, 89);
    let sa = &config.static_sas[0];
    assert_eq!(
        (sa.window_bits, sa.selectors.len(), sa.local_port),
        (1_024, 2, 0)
    );
    let outbound = sa.outbound.as_ref().unwrap();
    assert_eq!(
        (outbound.spi, outbound.sequence),
        (0x2000_0009, 0xffff_ffff)
    );
    assert_eq!(outbound.key[..2], [0xff, 0xfe]);
}

/// Text inside `[dataplane]`, text at the end, and a message that must be there.
const BAD_KEYS: [(&str, &str, &str); 21] = [
    (
        "workerz = 2",
        "",
        r#"t.toml:2:1: error: unknown key "dataplane.workerz"; did you mean "workers"?"#,
    ),
    (
        "workers = 0",
        "",
        r#"t.toml:2:11: error: "dataplane.workers" must be a number from 1 to 64"#,
    ),
    ("workers = [1, 1]", "", "names a core twice"),
    (
        "crypto_workers = 65",
        "",
        r#""dataplane.crypto_workers" must be a number from 0 to 64"#,
    ),
    (
        "workers = [1, 2]\ncrypto_workers = [2]",
        "",
        r#""dataplane.crypto_workers" names core 2, which "dataplane.workers" names too"#,
    ),
    ("run_dir = \"here\"", "", "must be an absolute path"),
    (
        "log = \"inf\"",
        "",
        r#"error, warn, info, debug, trace; did you mean "info"?"#,
    ),
    ("max_sas = 1048577", "", "from 2 to 1048576"),
    (
        "crypto_tier = \"avx\"",
        "",
        "one of avx512-karatsuba, avx512, avx2, aesni, portable",
    ),
    (
        "idle = \"busy\"\nmax_latency_us = 5",
        "",
        "has no meaning with idle = \"busy\"",
    ),
    ("default_policy = \"bypass\"", "", "is always \"discard\""),
    (
        "cryptodev = true",
        "",
        r#""dataplane.cryptodev" is known, but not built yet"#,
    ),
    ("memory_mib = [1]", "", "expects one value, found an array"),
    ("plugins = [\"x.so\"]", "", "must be an absolute path"),
    (
        "ports = 1",
        "",
        "must be sections [[dataplane.ports]], found an integer",
    ),
    (
        "",
        "[conections.x]",
        r#"unknown key "conections"; did you mean "connections"?"#,
    ),
    ("", "[pools]", r#""pools" is known, but not built yet"#),
    (
        "",
        "[[dataplane.policies]]\nname = \"x\"\naction = \"protect\"",
        "must be one of bypass, discard",
    ),
    (
        "",
        "[[dataplane.policies]]\nname = \"x\"\naction = \"bypass\"",
        "policies.local_ts\" is missing",
    ),
    (
        "log = \"info\"\nlog = \"warn\"",
        "",
        "t.toml:3:1: error: duplicate key",
    ),
    ("log = ", "", "t.toml:2:"),
];

#[test]
fn bad_keys_are_refused_with_place_and_fix() {
    for (head, tail, expected) in BAD_KEYS {
        let ports = if head.starts_with("ports") { "" } else { PORTS };
        let message = faults(&format!("[dataplane]\n{head}\n{ports}{tail}\n"));
        assert!(message.contains(expected), "{head} {tail}:\n{message}");
    }
}

/// Lines of one port, and a message that must be there.
const BAD_PORTS: [(&str, &str); 12] = [
    (
        "device = \"net_null0\"\nside = \"inside\"",
        "\"dataplane.ports.name\" is missing",
    ),
    (
        "name = \"a\"\nside = \"inside\"",
        "\"dataplane.ports.device\" is missing: a DPDK device",
    ),
    (
        "name = \"a\"\ndevice = \"net_null0\"",
        "\"dataplane.ports.side\" is missing",
    ),
    (
        "name = \"a\"\ndevice = \"\"\nside = \"inside\"",
        "must be a DPDK device string",
    ),
    (
        "name = \"a\"\ndevice = \"net_null0\"\nside = \"left\"",
        "must be one of inside, outside",
    ),
    (
        "name = \"inside\"\ndevice = \"net_null0\"\nside = \"inside\"",
        "name \"inside\" of port",
    ),
    (
        "name = \"a\"\ndevice = \"net_af_packet0,iface=x\"\nside = \"inside\"",
        "device \"net_af_packet0\"",
    ),
    (
        "name = \"a\"\ndevice = \"net_af_packet7,iface=veth-in\"\nside = \"inside\"",
        "network device \"veth-in\" of port \"a\" is already used by port \"inside\"",
    ),
    (
        "name = \"a\"\ndevice = \"net_null0\"\nside = \"inside\"\ntwin = \"cv-inside\"",
        "twin \"cv-inside\"",
    ),
    (
        "name = \"averylongname\"\ndevice = \"net_null0\"\nside = \"inside\"",
        "longer than 15 bytes",
    ),
    (
        "name = \"a\"\ndevice = \"net_null0\"\nside = \"inside\"\ntwin = false\naddresses = [\"10.0.0.1/24\"]",
        "need a twin",
    ),
    (
        "name = \"a\"\ndevice = \"net_null0\"\nside = \"inside\"\naddresses = [\"10.0.0.1\"]",
        "must be ADDRESS/LENGTH",
    ),
];

#[test]
fn bad_ports_are_refused() {
    for (lines, expected) in BAD_PORTS {
        let message = faults(&format!(
            "[dataplane]\n{PORTS}[[dataplane.ports]]\n{lines}\n"
        ));
        assert!(message.contains(expected), "{lines}:\n{message}");
        assert!(!message.contains('\n'), "one fault each: {message}");
    }
}

#[test]
fn static_sas_need_permission_and_a_sequence_number() {
    let message = faults(&format!("[dataplane]\n{PORTS}{SA}"));
    assert!(message.contains("allow_static_keys = true"), "{message}");
    assert!(message.contains("RFC 8221 section 3"), "{message}");
    let without = SA.replace(", sequence = 0", "");
    let message = faults(&format!(
        "[dataplane]\nallow_static_keys = true\n{PORTS}{without}"
    ));
    assert!(
        message.contains("static_sas.inbound.sequence\" is missing"),
        "{message}"
    );
    assert!(message.contains("RFC 8221 section 3"), "{message}");
}

/// What is replaced in the static SA, by what, and the message that must follow.
const BAD_SAS: [(&str, &str, &str); 12] = [
    (
        "aes128gcm16-esn",
        "aes128gcm61",
        "use aes128gcm16 or aes256gcm16",
    ),
    (
        "aes128gcm16-esn",
        "aes256gcm16",
        "must have 36 bytes (key of 32 and salt of 4), has 20",
    ),
    (
        "aes128gcm16-esn",
        "aes128gcm16",
        "sequence\" must be a number from 0 to 4294967295",
    ),
    ("spi = 0x20000009", "spi = 255", "must be a number from 256"),
    (
        "remote = \"10.90.0.1\"",
        "remote = \"fd90::1\"",
        "must be both IPv4 or both IPv6",
    ),
    ("fffefdfc", "fffefdf", "must be hex digits, two a byte"),
    ("fffefdfc", "fffefdfx", "not a hex digit"),
    (
        "fffefdfcfbfaf9f8f7f6f5f4f3f2f1f0efeeedec",
        "000102030405060708090a0b0c0d0e0f10111213",
        "used twice",
    ),
    ("1000\n", "31\n", "must be 0 (off) or 32 to 65536 packets"),
    (
        "10.92.0.0/24, fd92::/64",
        "dynamic",
        "cannot be dynamic without IKE",
    ),
    (
        "[\"10.91.0.0/24\", \"fd91::/64\"]",
        "[]\nlocal_port = 9",
        "no meaning without udp_encapsulation",
    ),
    (
        "name = \"lab\"",
        "name = \"lab\"\ninterface = \"outsid\"",
        "did you mean \"outside\"?",
    ),
];

#[test]
fn bad_static_sas_are_refused_without_showing_keys() {
    for (from, to, expected) in BAD_SAS {
        let esn_off = |sa: String| {
            if to == "aes256gcm16" {
                sa.replace("4294967295", "1")
            } else {
                sa
            }
        };
        let sa = match to {
            "aes128gcm16" => SA.replace("4294967295", "4294967296"),
            _ => esn_off(SA.to_owned()),
        };
        assert!(sa.contains(from), "{from}");
        let sa = sa.replace(from, to);
        let message = faults(&format!(
            "[dataplane]\nallow_static_keys = true\n{PORTS}{sa}"
        ));
        assert!(message.contains(expected), "{to}:\n{message}");
        assert!(
            !message.contains("fffefd") && !message.contains("0001020304"),
            "{message}"
        );
    }
}

#[test]
fn one_spi_twice_is_refused() {
    let again = SA
        .replace("\"lab\"", "\"lab2\"")
        .replace("00010203", "10010203")
        .replace("fffefd", "fffefe");
    let message = faults(&format!(
        "[dataplane]\nallow_static_keys = true\n{PORTS}{SA}{again}"
    ));
    let expected = "inbound SPI 0x10000009 of static SA \"lab2\" is already used by \"lab\"";
    assert!(message.contains(expected), "{message}");
    let elsewhere = again.replace("\"10.90.0.", "\"10.80.0.");
    let text = format!("[dataplane]\nallow_static_keys = true\n{PORTS}{SA}{elsewhere}");
    assert_eq!(parse(&text).unwrap().0.static_sas.len(), 2);
}

#[test]
fn all_faults_come_at_once_in_the_order_of_the_lines() {
    let message = faults("[dataplane]\nmax_sas = 0\nworkers = 99\nlogg = 1\n");
    let lines: Vec<_> = message
        .lines()
        .map(|l| l.split(": ").next().unwrap())
        .collect();
    assert_eq!(
        lines,
        ["t.toml:1:1:", "t.toml:2:11:", "t.toml:3:11:", "t.toml:4:1:"]
            .map(|l| l.trim_end_matches(':'))
    );
}

#[test]
fn the_sections_of_ike_are_not_the_dataplanes_business() {
    let text = format!("[dataplane]\n{PORTS}\n[connections.x]\nnonsense = 1\n[ike]\nmore = 2\n");
    assert!(parse(&text).is_ok());
}

#[test]
fn garbage_gives_a_bounded_number_of_faults() {
    let many: String = (0..1_000).map(|i| format!("key{i} = 1\n")).collect();
    let faults = parse(&many).unwrap_err();
    assert_eq!(faults.list.len(), FAULTS_MAX);
    assert!(parse("\u{0}]]=[[\"\n'''").is_err());
    assert!(
        parse("")
            .unwrap_err()
            .to_string()
            .contains("[dataplane] is missing")
    );
}

#[test]
fn a_key_never_shows_in_debug_output() {
    let text = format!("[dataplane]\nallow_static_keys = true\n{PORTS}{SA}");
    let debug = format!("{:?}", parse(&text).unwrap().0);
    assert!(
        debug.contains("StaticKey") && !debug.contains("key:"),
        "{debug}"
    );
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let faults = load_dataplane(Path::new("/nonexistent/culvert.toml")).unwrap_err();
    assert!(
        faults
            .to_string()
            .starts_with("/nonexistent/culvert.toml: error: No such file")
    );
}
