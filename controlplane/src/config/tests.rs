//! A table of good and bad files with the faults they must give.

use super::*;
use ike::config::{Action, AddressSpec, CopyDscp, Lifetime};

const HEAD: &str = "[dataplane]\n[[dataplane.ports]]\nname = \"in\"\ndevice = \"net_null0\"\n\
                    side = \"inside\"\n";

/// Line 8 of a file with [`HEAD`] before it.
const TUNNEL: &str = r#"
[connections.gw]
remote_addrs = "192.0.2.2"
local = { auth = "psk", id = "a.example.org" }
remote = { auth = "psk", id = "b.example.org" }
[connections.gw.children.net]
local_ts = "10.1.0.0/24"
remote_ts = "10.2.0.0/24"
[secrets.ike-1]
id-1 = "a.example.org"
id-2 = "b.example.org"
secret = "sesame-sesame"
"#;

fn load_text(text: &str) -> Result<(Config, Faults), Faults> {
    parse(Path::new("t.toml"), text)
}

fn faults(text: &str) -> String {
    load_text(text).err().expect("a fault").to_string()
}

/// The tunnel with one line replaced.
fn changed(from: &str, to: &str) -> String {
    assert!(TUNNEL.contains(from), "{from}");
    format!("{HEAD}{}", TUNNEL.replace(from, to))
}

fn connection_with(line: &str) -> String {
    changed(
        "remote_addrs = \"192.0.2.2\"",
        &format!("remote_addrs = \"192.0.2.2\"\n{line}"),
    )
}

fn child_with(line: &str) -> String {
    changed(
        "local_ts = \"10.1.0.0/24\"",
        &format!("local_ts = \"10.1.0.0/24\"\n{line}"),
    )
}

#[test]
fn the_smallest_tunnel_has_swanctls_defaults() {
    let (config, warnings) = load_text(&format!("{HEAD}{TUNNEL}")).ok().unwrap();
    assert!(warnings.is_empty(), "{warnings}");
    let connection = &config.connections[0];
    assert_eq!(
        (connection.name.as_str(), connection.dpd_delay_s),
        ("gw", 30)
    );
    assert_eq!((connection.local_port, connection.remote_port), (500, 500));
    assert_eq!(
        (connection.rekey_time_s, connection.keyingtries),
        (14_400, 1)
    );
    assert!(connection.local_addrs.is_empty() && !connection.encap);
    assert_eq!(
        connection.remote_addrs,
        [AddressSpec::single("192.0.2.2".parse().unwrap())]
    );
    assert!(!connection.proposals.is_empty());
    let child = &connection.children[0];
    assert_eq!(
        child.time_s,
        Lifetime {
            rekey: 3_600,
            life: None,
            rand: None
        }
    );
    assert_eq!(
        (child.bytes, child.packets),
        (Lifetime::NEVER, Lifetime::NEVER)
    );
    assert_eq!(
        (child.replay_window, child.priority, child.copy_df),
        (4_096, 0, true)
    );
    assert_eq!(
        (child.close_action, child.copy_dscp),
        (Action::None, CopyDscp::Out)
    );
    assert!(!child.start_action.trap && !child.start_action.start);
    assert!(!child.esp_proposals.is_empty());
    assert_eq!(config.secrets[0].key[..], *b"sesame-sesame");
    assert_eq!(config.secrets[0].ids.len(), 2);
    assert_eq!(
        config.daemon.key_file,
        Path::new("/var/lib/culvert/checkpoint.key")
    );
    assert_eq!(config.settings, Settings::default());
}

#[test]
fn the_sample_file_is_good() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/culvert.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let (config, warnings) = parse(&path, &text).map_err(|f| panic!("{f}")).ok().unwrap();
    assert!(warnings.is_empty(), "{warnings}");
    assert_eq!(
        (config.dataplane.ports.len(), config.connections.len()),
        (2, 1)
    );
    // The keys it names have their defaults, so that nothing changes when one is removed.
    assert_eq!(config.settings, Settings::default());
}

#[test]
fn what_is_typed_becomes_what_it_means() {
    let text = connection_with(
        "version = 2\nlocal_addrs = \"192.0.2.1, 198.51.100.0/24\"\nencap = true\n\
         dpd_delay = 0\nkeyingtries = 0\nrekey_time = \"5s\"\nover_time = \"10s\"\n\
         rand_time = 0\nunique = \"replace\"\nchildless = \"force\"\nmobike = false\n\
         fragmentation = \"no\"\nproposals = [\"aes256gcm16-prfsha256-x25519\"]",
    );
    let text = text.replace(
        "[secrets.ike-1]",
        "rekey_time = \"4s\"\nlife_time = \"30s\"\nrand_time = 0\nrekey_bytes = 100000\n\
         life_bytes = \"10M\"\nrand_bytes = 0\nlife_packets = 1000\nreplay_window = 32\n\
         start_action = \"trap|start\"\nclose_action = \"start\"\ndpd_action = \"restart\"\n\
         copy_dscp = \"no\"\npriority = 7\nesp_proposals = \"aes128gcm16\"\n[secrets.ike-1]",
    );
    let (config, _) = load_text(&text).map_err(|f| panic!("{f}")).ok().unwrap();
    let connection = &config.connections[0];
    assert_eq!(
        (connection.rekey_time_s, connection.over_time_s),
        (5, Some(10))
    );
    assert_eq!(
        (connection.rand_time_s, connection.dpd_delay_s),
        (Some(0), 0)
    );
    assert_eq!(
        (connection.local_addrs.len(), connection.proposals.len()),
        (2, 1)
    );
    let child = &connection.children[0];
    assert_eq!(
        child.time_s,
        Lifetime {
            rekey: 4,
            life: Some(30),
            rand: Some(0)
        }
    );
    assert_eq!(
        child.bytes,
        Lifetime {
            rekey: 100_000,
            life: Some(10 << 20),
            rand: Some(0)
        }
    );
    assert_eq!(
        child.packets,
        Lifetime {
            rekey: 900,
            life: Some(1_000),
            rand: None
        }
    );
    assert_eq!((child.replay_window, child.priority), (32, 7));
    assert!(child.start_action.trap && child.start_action.start);
    assert_eq!(
        (child.close_action, child.dpd_action),
        (Action::Start, Action::Start)
    );
}

#[test]
fn settings_have_charons_names() {
    let text = format!(
        "{HEAD}[ike]\nretransmit_timeout = 0.5\nretransmit_tries = 3\nretransmit_base = 1.3\n\
         cookie_threshold = \"3\"\nhalf_open_timeout = 300\nstate_dir = \"/s\"\n\
         half_open_limit = 9\nike_sa_limit = 8\n\
         replay_window = 64\ndelete_rekeyed_delay = \"1s\"\n{TUNNEL}"
    );
    let (config, _) = load_text(&text).map_err(|f| panic!("{f}")).ok().unwrap();
    let settings = &config.settings;
    assert_eq!(
        (
            settings.retransmit_timeout_ms,
            settings.retransmit_base_percent
        ),
        (500, 130)
    );
    assert_eq!(
        (settings.retransmit_tries, settings.cookie_threshold),
        (3, 3)
    );
    assert_eq!((settings.half_open_timeout_s, settings.drain_s), (300, 1));
    assert_eq!(config.daemon.key_file, Path::new("/s/checkpoint.key"));
    assert_eq!(config.connections[0].children[0].replay_window, 64);
}

#[test]
fn secrets_are_text_hex_or_base64() {
    for (typed, key) in [
        ("0x61ff", &[0x61, 0xff][..]),
        ("0sYWI=", b"ab"),
        ("0 x", b"0 x"),
    ] {
        let (config, _) = load_text(&changed("sesame-sesame", typed)).ok().unwrap();
        assert_eq!(config.secrets[0].key[..], *key, "{typed}");
    }
}

#[test]
fn shunts_are_policies_of_their_own() {
    let text = format!(
        "{HEAD}[connections.clear.children.dns]\nmode = \"pass\"\nstart_action = \"trap\"\n\
         local_ts = \"10.1.0.0/24\"\nremote_ts = \"10.9.0.1[udp/53]\"\n"
    );
    let (config, warnings) = load_text(&text).map_err(|f| panic!("{f}")).ok().unwrap();
    assert!(config.connections.is_empty() && warnings.is_empty());
    let shunt = &config.shunts[0];
    assert_eq!(shunt.action, ShuntAction::Bypass);
    assert_eq!(
        (shunt.connection.as_str(), shunt.name.as_str()),
        ("clear", "dns")
    );
    assert_eq!(shunt.selectors[0].remote_ports, (53, 53));
}

/// A line for the connection, and a message that must follow.
const BAD_CONNECTIONS: [(&str, &str); 19] = [
    (
        "verson = 2",
        "t.toml:9:1: error: unknown key \"connections.gw.verson\"; did you mean \"version\"?",
    ),
    ("version = 1", "1 (IKEv1) is known, but not built yet"),
    (
        "mobike = true",
        "\"connections.gw.mobike\" is known, but not built yet: only \"no\" is taken",
    ),
    ("fragmentation = \"yes\"", "not built yet: write \"no\""),
    (
        "vips = \"0.0.0.0\"",
        "\"connections.gw.vips\" is known, but not built yet",
    ),
    (
        "pools = \"a\"",
        "\"connections.gw.pools\" is known, but not built yet",
    ),
    (
        "local_addrs = \"gw.example.org\"",
        "DNS name \"gw.example.org\": names are known",
    ),
    (
        "local_addrs = \"192.0.2.300\"",
        "must be an address, a network, a range or %any",
    ),
    (
        "local_addrs = \"2001:db8::1\"",
        "no address family in common",
    ),
    ("local_port = 0", "must be a number from 1 to 65535"),
    (
        "dpd_delay = \"soon\"",
        "must be a time such as 30s, 10m, 4h or 1d",
    ),
    (
        "rekey_time = 60\nrand_time = 60",
        "must be shorter than rekey_time (60 s)",
    ),
    (
        "unique = \"kep\"",
        "must be one of no, never, keep, replace; did you mean \"keep\"?",
    ),
    ("encap = 2", "must be true or false"),
    (
        "proposals = \"aes128gmc16\"",
        "\"connections.gw.proposals\"",
    ),
    (
        "local-2 = { auth = \"psk\" }",
        "a second round \"connections.gw.local\" is known",
    ),
    (
        "childless = 1",
        "must be one of allow, prefer, force, never",
    ),
    (
        "children.x = 5",
        "must be a section [connections.gw.children.x], found an integer",
    ),
    (
        "if_id_in = 5",
        "\"connections.gw.if_id_in\" is known, but not built yet",
    ),
];

#[test]
fn bad_connections_are_refused_with_place_and_fix() {
    for (line, expected) in BAD_CONNECTIONS {
        let message = faults(&connection_with(line));
        assert!(message.contains(expected), "{line}:\n{message}");
        assert!(!message.contains('\n'), "one fault each: {message}");
    }
}

/// A line for the child, and a message that must follow.
const BAD_CHILDREN: [(&str, &str); 16] = [
    (
        "modee = \"tunnel\"",
        "unknown key \"connections.gw.children.net.modee\"; did you mean \"mode\"?",
    ),
    (
        "mode = \"transport\"",
        "= \"transport\" is known, but not built yet",
    ),
    ("mode = \"tunel\"", "did you mean \"tunnel\"?"),
    (
        "ah_proposals = \"sha256\"",
        "net.ah_proposals\" is known, but not built yet",
    ),
    (
        "updown = \"/x\"",
        "net.updown\" is known, but not built yet",
    ),
    ("ipcomp = true", "only \"no\" is taken"),
    ("mark_in = 7", "only \"0\" is taken"),
    (
        "rekey_time = \"1h\"\nlife_time = \"1h\"",
        "must be more than rekey_time (3600)",
    ),
    (
        "rekey_bytes = 1000\nrand_bytes = 1000",
        "must be less than rekey_bytes (1000)",
    ),
    (
        "life_bytes = \"1T\"",
        "must be a size such as 500000, 64K, 10M or 1G",
    ),
    (
        "start_action = \"strat\"",
        "must be none, trap, start or \"trap|start\"; did you mean \"start\"?",
    ),
    ("close_action = \"clean\"", "did you mean \"clear\"?"),
    (
        "replay_window = 65537",
        "must be 0 (off) or 32 to 65536 packets",
    ),
    ("copy_dscp = \"maybe\"", "must be out, in, yes or no"),
    (
        "interface = \"in\"",
        "net.interface\" is known, but not built yet",
    ),
    (
        "esp_proposals = \"aes128gmc16\"",
        "\"connections.gw.children.net.esp_proposals\"",
    ),
];

#[test]
fn bad_children_are_refused_with_place_and_fix() {
    for (line, expected) in BAD_CHILDREN {
        let message = faults(&child_with(line));
        assert!(message.contains(expected), "{line}:\n{message}");
    }
}

/// What is replaced in the tunnel, by what, and the message that must follow.
const BAD_FILES: [(&str, &str, &str); 14] = [
    (
        "local_ts = \"10.1.0.0/24\"",
        "local_ts = \"10.1.0.0/40\"",
        "must be ADDRESS/LENGTH",
    ),
    (
        "local_ts = \"10.1.0.0/24\"",
        "local_ts = \"fd00::/64\"",
        "no family and protocol in common",
    ),
    (
        "local = { auth = \"psk\",",
        "local = { auth = \"pubkey\",",
        "local.auth\" = \"pubkey\" is known, but not built yet",
    ),
    (
        "local = { auth = \"psk\",",
        "local = { auth = \"pks\",",
        "must be \"psk\", not \"pks\"",
    ),
    (
        "remote = { auth = \"psk\",",
        "remote = {",
        "\"connections.gw.remote.auth\" is missing: its default \"pubkey\"",
    ),
    (
        "local = { auth = \"psk\",",
        "local = { auth = \"psk\", certs = \"x.pem\",",
        "local.certs\" is known, but not built yet",
    ),
    (
        "[secrets.ike-1]",
        "[secrets.eap-1]",
        "secrets of type \"eap\" are known, but not built yet",
    ),
    (
        "[secrets.ike-1]",
        "[secrets.iek-1]",
        "must start with \"ike\"",
    ),
    (
        "secret = \"sesame-sesame\"",
        "",
        "\"secrets.ike-1.secret\" is missing",
    ),
    (
        "secret = \"sesame-sesame\"",
        "secert = \"sesame\"\nsecret = \"x\"",
        "did you mean \"secret\"?",
    ),
    (
        "\"sesame-sesame\"",
        "123456",
        "must be a string in quotes, found an integer",
    ),
    ("\"sesame-sesame\"", "\"0xsesame\"", "hex"),
    ("\"sesame-sesame\"", "\"0ssesame!\"", "is not base64"),
    (
        "[connections.gw]",
        "[connections.gw]\n[conections.x]\n[connections.gw.x]",
        "unknown key \"conections\"",
    ),
];

#[test]
fn bad_files_are_refused_and_no_secret_is_shown() {
    for (from, to, expected) in BAD_FILES {
        let message = faults(&changed(from, to));
        assert!(message.contains(expected), "{to}:\n{message}");
        assert!(
            !message.contains("sesame") && !message.contains("123456"),
            "{message}"
        );
    }
}

#[test]
fn broken_quotes_show_no_secret() {
    for to in [
        "sesame-open",
        "\"sesame",
        "'sesame\"",
        "\"sesame\\q\"",
        "\"sesame\" sesame",
    ] {
        let message = faults(&changed("\"sesame-sesame\"", to));
        assert!(!message.contains("sesame"), "{to}: {message}");
        assert!(message.contains("t.toml:17:"), "{to}: {message}");
    }
}

#[test]
fn a_second_secret_for_the_same_ends_is_refused() {
    let again =
        "[secrets.ike-2]\nid = \"b.example.org\"\nid-9 = \"a.example.org\"\nsecret = \"z\"\n";
    let message = faults(&format!("{HEAD}{TUNNEL}{again}"));
    let expected = "\"secrets.ike-2\" is for the same identities as \"secrets.ike-1\"";
    assert!(message.contains(expected), "{message}");
}

#[test]
fn a_connection_without_secret_is_refused_and_its_ends_named() {
    let ids = "id-1 = \"a.example.org\"\nid-2 = \"b.example.org\"";
    let message = faults(&changed(ids, "id = \"c\""));
    let expected = "t.toml:7:1: error: \"connections.gw\" has no secret for \"a.example.org\" \
                    and \"b.example.org\": write a [secrets.ike-NAME]";
    assert!(message.contains(expected), "{message}");
    // One end is enough, a pattern too, and no identity at all is for everybody.
    for id in [
        "id = \"A.example.org\"",
        "id = \"*.example.org\"",
        "id = \"%any\"",
        "",
    ] {
        assert!(load_text(&changed(ids, id)).is_ok(), "{id}");
    }
    let unnamed = |id: &str| {
        let text =
            changed(ids, id).replace("auth = \"psk\", id = \"a.example.org\"", "auth = \"psk\"");
        text.replace("remote_addrs", "local_addrs = \"192.0.2.1\"\nremote_addrs")
    };
    assert!(load_text(&unnamed("id = \"192.0.2.1\"")).is_ok());
    let message = faults(&unnamed("id = \"192.0.2.9\""));
    assert!(
        message.contains("no secret for the own address and"),
        "{message}"
    );
}

#[test]
fn names_that_cannot_be_shown_are_refused() {
    for name in ["\"a.b\"", "\"a b\"", "\"\"", "\"a\\n\""] {
        let text = changed(
            "[connections.gw]",
            &format!("[connections.gw]\nchildren.{name} = {{}}"),
        );
        let message = faults(&text);
        assert!(
            message.contains("must not be empty nor hold white space"),
            "{name}: {message}"
        );
    }
}

#[test]
fn a_connection_may_have_no_children() {
    let text = format!("{HEAD}{TUNNEL}");
    let (head, rest) = text.split_once("[connections.gw.children.net]").unwrap();
    let (_, secrets) = rest.split_once("[secrets").unwrap();
    for children in ["", "[connections.gw.children]\n"] {
        let (config, _) = load_text(&format!("{head}{children}[secrets{secrets}"))
            .ok()
            .unwrap();
        assert!(config.connections[0].children.is_empty());
    }
}

/// As swanctl2toml writes them: every value is text.
#[test]
fn values_may_all_be_text() {
    let text = connection_with(
        "version = \"2\"\nmobike = \"no\"\nfragmentation = \"accept\"\ndpd_delay = \"1s\"\n\
         rekey_time = \"4s\"\nlocal_port = \"500\"\nencap = \"yes\"\nreauth_time = \"0s\"",
    );
    let (config, _) = load_text(&text).map_err(|f| panic!("{f}")).ok().unwrap();
    let connection = &config.connections[0];
    assert!(connection.encap && connection.dpd_delay_s == 1 && connection.rekey_time_s == 4);
}

#[test]
fn a_child_that_starts_needs_a_peer_to_call() {
    let text = child_with("start_action = \"start\"").replace("192.0.2.2", "%any");
    let message = faults(&text);
    assert!(
        message.contains("has no single address to call"),
        "{message}"
    );
    let trap = child_with("start_action = \"trap\"").replace("192.0.2.2", "%any");
    assert!(load_text(&trap).is_ok());
}

#[test]
fn faults_of_all_sections_come_at_once() {
    let text = format!(
        "{}[ike]\nthreads = 4\nretransmit_trys = 1\n",
        child_with("modee = 1")
    );
    let message = faults(&text.replace("[dataplane]\n", "[dataplane]\nmax_sas = 0\n"));
    for expected in [
        "max_sas",
        "modee",
        "\"ike.threads\" is known",
        "did you mean \"retransmit_tries\"?",
    ] {
        assert!(message.contains(expected), "{expected}:\n{message}");
    }
    assert_eq!(message.lines().count(), 4, "{message}");
}

#[test]
fn a_file_of_secrets_that_others_can_read_is_a_warning() {
    let text = format!("{HEAD}{TUNNEL}");
    let (_, warnings) = parse_with_mode(Path::new("t"), &text, 0o100_644)
        .ok()
        .unwrap();
    assert!(warnings.to_string().contains("chmod 600"), "{warnings}");
    let (_, warnings) = parse_with_mode(Path::new("t"), &text, 0o100_600)
        .ok()
        .unwrap();
    assert!(warnings.is_empty());
}
