//! The nftables rules that keep the kernel from routing around us.
//!
//! The kernel still gets every frame of a device that a software port shares, and it would forward
//! from and to the twins like any router. So the ingress of shared devices is dropped (packet
//! sockets have seen the frame by then), so is forwarding from or to twins and shared devices.
//! The rules outlive the process: dead, the gateway passes nothing. Each port has tables of its own,
//! replaced in one transaction; nobody else's rules are touched.

use std::fmt;
use std::io::{self, Write};
use std::process::{Command, Stdio};

/// Why rules could not be set.
#[derive(Debug)]
pub enum NftError {
    /// There is no `nft` to call.
    Missing(io::Error),
    /// `nft` refused; its own words.
    Refused(String),
}

impl fmt::Display for NftError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(cause) => write!(
                f,
                "cannot run \"nft\" ({cause}): without its rules the kernel would forward packets \
                 around IPsec; install nftables"
            ),
            Self::Refused(words) => write!(f, "nft refused the rules: {words}"),
        }
    }
}

impl std::error::Error for NftError {}

/// Puts the rules of a port in place, instead of earlier ones of the same port.
pub fn guard(twin: &str, shared: Option<&str>) -> Result<(), NftError> {
    run(&rules(twin, shared))
}

/// Removes the rules of a port.
pub fn release(twin: &str) -> Result<(), NftError> {
    run(&removal(twin))
}

/// The tables' name: twins are unique in a network namespace.
fn table(twin: &str) -> String {
    let safe = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_string()
        } else {
            format!("_{:x}_", u32::from(c))
        }
    };
    let name: String = twin.chars().map(safe).collect();
    format!("culvert_{name}")
}

/// Removes both tables, whether they are there or not (adding first makes deletion safe).
fn removal(twin: &str) -> String {
    let table = table(twin);
    format!(
        "table netdev {table}\ndelete table netdev {table}\n\
         table inet {table}\ndelete table inet {table}\n"
    )
}

fn rules(twin: &str, shared: Option<&str>) -> String {
    let table = table(twin);
    let mut text = removal(twin);
    let mut devices = format!("\"{twin}\"");
    if let Some(shared) = shared {
        text += &format!(
            "table netdev {table} {{\n chain ingress {{\n  \
             type filter hook ingress device \"{shared}\" priority 0; policy drop;\n }}\n}}\n"
        );
        devices += &format!(", \"{shared}\"");
    }
    // By name: the rules also hold for a device that comes back with another index.
    text += &format!(
        "table inet {table} {{\n chain forward {{\n  \
         type filter hook forward priority -10; policy accept;\n  \
         iifname {{ {devices} }} counter drop\n  \
         oifname {{ {devices} }} counter drop\n }}\n}}\n"
    );
    text
}

fn run(rules: &str) -> Result<(), NftError> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(NftError::Missing)?;
    if let Some(mut stdin) = child.stdin.take() {
        // An early exit of nft shows in its status and words below.
        let _ = stdin.write_all(rules.as_bytes());
    }
    let output = child.wait_with_output().map_err(NftError::Missing)?;
    if output.status.success() {
        return Ok(());
    }
    Err(NftError::Refused(
        String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_different_twins_never_collide() {
        assert_eq!(table("cv-eth0"), "culvert_cv_2d_eth0");
        assert_ne!(table("a-b"), table("a.b"));
    }

    #[test]
    fn old_tables_go_in_the_transaction_that_brings_the_new_ones() {
        let text = rules("cv-x", Some("eth7"));
        let delete = text.find("delete table inet culvert_cv_2d_x").unwrap();
        let add = text.find("table inet culvert_cv_2d_x {").unwrap();
        assert!(delete < add);
        assert!(text.contains("hook ingress device \"eth7\""));
        assert!(!text.contains("flush"));
    }

    #[test]
    fn a_port_of_its_own_has_no_ingress_rule() {
        let text = rules("cv-x", None);
        assert!(!text.contains("ingress"));
        assert!(text.contains("iifname { \"cv-x\" } counter drop"));
    }
}
