//! The command against processes that are played by threads.

use super::*;
use clap::CommandFactory;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A run directory that goes away with the test.
struct RunDir(PathBuf);

impl RunDir {
    fn new() -> Self {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("culvert-cli-{}-{count}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir(&dir).unwrap();
        Self(dir)
    }

    /// A process that answers one request with these lines, and gives the request back.
    fn serve(&self, socket: &str, lines: &[Value]) -> thread::JoinHandle<Value> {
        let listener = UnixListener::bind(self.0.join(socket)).unwrap();
        let answer: String = lines.iter().map(|line| format!("{line}\n")).collect();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = String::new();
            BufReader::new(&stream).read_line(&mut request).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            serde_json::from_str(&request).unwrap()
        })
    }

    fn culvert(&self, line: &str) -> (String, Result<u8, Failure>) {
        run_line(&self.0, line)
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn run_line(run_dir: &Path, line: &str) -> (String, Result<u8, Failure>) {
    let words = ["culvert", "--run-dir", run_dir.to_str().unwrap()];
    let arguments = Arguments::parse_from(words.into_iter().chain(line.split(' ')));
    let mut out = Vec::new();
    let result = run(arguments, &mut out);
    (String::from_utf8(out).unwrap(), result)
}

fn ike_sa() -> Value {
    json!({
        "connection": "office", "id": 1, "state": "established", "initiator": true,
        "local": {"address": "192.0.2.1", "port": 500, "id": "a.example.org"},
        "remote": {"address": "192.0.2.2", "port": 500, "id": "b.example.org"},
        "spi_initiator": "0123456789abcdef", "spi_responder": "fedcba9876543210",
        "proposal": "AES_GCM_16-256", "nat_local": false, "nat_remote": false, "age_s": 61,
        "rekey_in_s": null,
        "children": [{
            "name": "net", "id": 3, "state": "installed", "mode": "tunnel",
            "udp_encapsulation": false, "proposal": "AES_GCM_16-256",
            "spi_in": "0x00400100", "spi_out": "0xc0000001", "local_ts": ["10.1.0.0/24"],
            "remote_ts": ["10.2.0.0/24"], "age_s": 5, "rekey_in_s": 3300, "expires_in_s": 3900,
        }],
    })
}

fn row(direction: &str, spi: &str, packets: u64) -> Value {
    json!({
        "id": 7, "child": 3, "direction": direction, "spi": spi, "name": null,
        "local": "192.0.2.1", "remote": "192.0.2.2", "udp_encapsulation": false,
        "algorithm": "AES_GCM_16-256", "active": true, "packets": packets, "bytes": packets * 100,
        "sequence": packets, "window_bits": 4096, "replay_drops": 2, "auth_drops": 1,
        "idle_s": null,
    })
}

fn serve_ike_sas(dir: &RunDir) -> thread::JoinHandle<Value> {
    dir.serve(
        "ike.sock",
        &[json!({ "sa": ike_sa() }), json!({"ok": true})],
    )
}

fn serve_rows(dir: &RunDir) -> thread::JoinHandle<Value> {
    let rows = [row("in", "0x00400100", 17), row("out", "0xc0000009", 5)];
    dir.serve("dataplane-admin.sock", &[json!({ "sas": rows })])
}

#[test]
fn sas_join_what_both_processes_know() {
    let dir = RunDir::new();
    let (ike, dataplane) = (serve_ike_sas(&dir), serve_rows(&dir));
    let (out, result) = dir.culvert("sas");
    assert!(matches!(result, Ok(0)));
    assert!(out.starts_with("office  #1  ESTABLISHED"), "{out}");
    assert!(
        out.contains("in  00400100  17 packets, 1.7 KB, dropped 2 replayed, 1 altered\n"),
        "{out}"
    );
    // The outbound row is of another SPI: it is not this SA's, and not hidden either.
    assert!(
        out.contains("out c0000001\n") && out.contains("c0000009"),
        "{out}"
    );
    assert_eq!(ike.join().unwrap(), json!({"command": "list-sas"}));
    assert_eq!(dataplane.join().unwrap(), json!({"get": "sas"}));
}

#[test]
fn sas_in_json_are_one_object_whoever_is_away() {
    for (with_ike, with_dataplane) in [(true, true), (true, false), (false, true)] {
        let dir = RunDir::new();
        let ike = with_ike.then(|| serve_ike_sas(&dir));
        let dataplane = with_dataplane.then(|| serve_rows(&dir));
        let (out, result) = dir.culvert("sas --json");
        assert!(matches!(result, Ok(0)));
        let value: Value = serde_json::from_str(&out).unwrap();
        let count = |key: &str| value[key].as_array().unwrap().len();
        assert_eq!(count("ike_sas"), usize::from(with_ike));
        assert_eq!(count("sas"), if with_dataplane { 2 } else { 0 });
        if with_ike {
            assert_eq!(value["ike_sas"][0], ike_sa());
        }
        for process in [ike, dataplane].into_iter().flatten() {
            process.join().unwrap();
        }
    }
}

#[test]
fn without_processes_the_sockets_are_named() {
    let dir = RunDir::new();
    for line in ["sas", "ports", "initiate --ike x", "reload"] {
        let (out, result) = dir.culvert(line);
        let text = result.unwrap_err().to_string();
        assert!(
            text.contains("is not running") && text.contains(".sock"),
            "{line}: {text}"
        );
        assert_eq!(out, "");
    }
}

#[test]
fn status_tells_which_process_is_away() {
    let dir = RunDir::new();
    let status = json!({
        "version": "1", "pid": 5, "uptime_s": 1, "dataplane_connected": true, "connections": 1,
        "ike_sas": 0, "half_open": 0, "child_sas": 0, "counters": {},
    });
    let ike = dir.serve(
        "ike.sock",
        &[json!({ "status": status }), json!({"ok": true})],
    );
    let (out, result) = dir.culvert("--json status");
    assert!(
        result
            .unwrap_err()
            .to_string()
            .contains("not every process answers")
    );
    let value: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(value, json!({ "ike": status, "dataplane": null }));
    ike.join().unwrap();
}

#[test]
fn a_failed_initiate_ends_with_the_verdict() {
    let dir = RunDir::new();
    let log = |level: &str, text: &str| json!({"log": {"level": level, "text": text}});
    let lines = [
        log("info", "calling 192.0.2.2"),
        log("debug", "hidden"),
        log("warn", "for standard error"),
        json!({"error": "peer says AUTHENTICATION_FAILED: check the secret"}),
    ];
    let ike = dir.serve("ike.sock", &lines);
    let (out, result) = dir.culvert("initiate --ike office --child net --timeout 5");
    assert_eq!(out, "calling 192.0.2.2\n");
    let text = result.unwrap_err().to_string();
    assert_eq!(text, "peer says AUTHENTICATION_FAILED: check the secret");
    let expected = json!({"command": "initiate", "ike": "office", "child": "net", "timeout_s": 5});
    assert_eq!(ike.join().unwrap(), expected);
}

#[test]
fn tables_in_json_have_their_name() {
    let dir = RunDir::new();
    let counters = json!({"counters": [
        {"name": "rx", "value": 0, "help": "h", "drop": false},
        {"name": "no_policy", "value": 9, "help": "h2", "drop": true},
    ]});
    let one = dir.serve("dataplane-admin.sock", std::slice::from_ref(&counters));
    let (out, _) = dir.culvert("counters --json");
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), counters);
    one.join().unwrap();
    std::fs::remove_file(dir.0.join("dataplane-admin.sock")).unwrap();
    let one = dir.serve("dataplane-admin.sock", &[counters]);
    let (out, _) = dir.culvert("counters");
    assert!(out.contains("no_policy") && !out.contains("rx"), "{out}");
    one.join().unwrap();
}

#[test]
fn wrong_answers_are_failures() {
    for answer in [json!({"error": "no"}), json!(7), json!({"sas": 1})] {
        let dir = RunDir::new();
        let process = dir.serve("dataplane-admin.sock", std::slice::from_ref(&answer));
        let (_, result) = dir.culvert("counters");
        assert!(result.is_err(), "{answer}");
        process.join().unwrap();
    }
    // One that closes without an end has not done it.
    let dir = RunDir::new();
    let process = dir.serve("ike.sock", &[]);
    let (_, result) = dir.culvert("handover");
    assert!(
        result
            .unwrap_err()
            .to_string()
            .contains("closed the connection")
    );
    process.join().unwrap();
}

#[test]
fn check_tells_the_faults_by_exit_code() {
    let dir = RunDir::new();
    let file = dir.0.join("x.toml");
    std::fs::write(&file, "[ike]\nport = 0\n").unwrap();
    let (out, result) = dir.culvert(&format!("--json check {}", file.display()));
    assert!(matches!(result, Ok(FAULTS)));
    let value: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(value["ok"], json!(false));
    assert_eq!(value["faults"][1]["line"], json!(2));
    assert_eq!(value["faults"][1]["severity"], json!("error"));
}

#[test]
fn the_command_line_is_consistent() {
    Arguments::command().debug_assert();
}

#[test]
fn wrong_usage_is_refused() {
    for line in [
        "culvert",
        "culvert initiate --timeout 5",
        "culvert terminate",
        "culvert terminate --ike-id 1 --child x",
        "culvert rekey --child-id x",
        "culvert frobnicate",
    ] {
        let error = Arguments::try_parse_from(line.split(' ')).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line}");
    }
}

#[test]
fn good_lines_are_taken() {
    for line in [
        "culvert status --json",
        "culvert --run-dir /tmp/x sas",
        "culvert initiate --ike office",
        "culvert initiate --ike office --child net --timeout 5",
        "culvert terminate --ike office --child net",
        "culvert rekey --child-id 7",
        "culvert check",
        "culvert counters --all",
    ] {
        assert!(Arguments::try_parse_from(line.split(' ')).is_ok(), "{line}");
    }
}
