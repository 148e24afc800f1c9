//! The soak of `make soak`, small: the real dataplane as root, IKE messages always.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may")]

use std::path::Path;
use std::process::{Command, Output};

/// The same on every run, so that a failure here is not a matter of luck.
const SEED: &str = "20240607";

fn soak(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_culvert-bench"))
        .args(["soak", "--seed", SEED])
        .args(arguments)
        .output()
        .unwrap()
}

fn assert_passes(output: &Output) -> String {
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{out}\n{err}");
    out
}

#[test]
fn random_and_mutated_frames_are_all_accounted_for() {
    if !rustix::process::geteuid().is_root() || !Path::new("/dev/net/tun").exists() {
        eprintln!("SKIPPED: needs root, network namespaces and /dev/net/tun");
        return;
    }
    let out = assert_passes(&soak(&["--frames", "200000", "--messages", "0"]));
    assert!(out.contains("200000 frames"), "{out}");
}

#[test]
fn random_and_mutated_ike_messages_do_no_harm() {
    let out = assert_passes(&soak(&["--frames", "0", "--messages", "50000"]));
    assert!(out.contains("no panic"), "{out}");
}

#[test]
fn a_dataplane_that_does_not_start_fails_the_soak() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: needs root and network namespaces");
        return;
    }
    let output = soak(&[
        "--frames",
        "10",
        "--messages",
        "0",
        "--dataplane",
        "/bin/false",
    ]);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(err.contains("did not start") && err.contains(SEED), "{err}");
    let kept = err
        .lines()
        .find_map(|line| line.split_once("kept for a look: "));
    std::fs::remove_dir_all(kept.unwrap().1).unwrap();
}
