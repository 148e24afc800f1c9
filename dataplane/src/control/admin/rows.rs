//! The JSON of the admin socket, `<run_dir>/dataplane-admin.sock`.
//!
//! A client sends one line, `{"get":"TABLE"}`, and reads one line: `{"TABLE":...}` in the form of
//! the structs below, or `{"error":"..."}`. Then the socket is closed. The file of the same name in
//! the documentation is the reference for operators.

use serde::{Deserialize, Serialize, Serializer};

/// A 32-bit SPI, written as `"0x000010ff"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spi(pub u32);

impl Serialize for Spi {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:#010x}", self.0))
    }
}

/// `{"get":"counters"}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Get {
    pub get: TableName,
}

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TableName {
    Status,
    Counters,
    Ports,
    Policies,
    Sas,
    Routes,
    Neighbours,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Table {
    Status(Status),
    Counters(Vec<CounterRow>),
    Ports(Vec<PortRow>),
    Policies(Vec<PolicyRow>),
    Sas(Vec<SaRow>),
    Routes(Vec<RouteRow>),
    Neighbours(Vec<NeighbourRow>),
    Error(String),
}

/// The process as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Status {
    pub version: String,
    pub pid: u32,
    pub uptime_s: u64,
    pub workers: Vec<WorkerRow>,
    pub crypto_workers: Vec<CryptoWorkerRow>,
    /// Name of the crypto backend in use.
    pub crypto: String,
    pub hugepages: bool,
    /// Whether culvert-ike holds the contract.
    pub ike_connected: bool,
    /// Whether policies have ever been committed; before that all is discarded.
    pub committed: bool,
    pub sas: u64,
    pub max_sas: u64,
    pub policies: u64,
    pub routes: u64,
}

/// One worker thread.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct WorkerRow {
    pub core: u32,
    pub rx_packets: u64,
    pub tx_packets: u64,
    /// Share of its time since it started in which it had packets, in percent.
    pub busy_percent: u32,
}

/// One crypto worker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CryptoWorkerRow {
    pub core: u32,
    /// Share of its time since it started in which it had something to do, in percent.
    pub busy_percent: u32,
}

/// One counter of all workers and the control thread together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CounterRow {
    pub name: String,
    pub value: u64,
    /// What it counts, in one sentence.
    pub help: String,
    /// Whether it counts dropped packets.
    pub drop: bool,
}

/// One port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PortRow {
    pub name: String,
    /// DPDK device string.
    pub device: String,
    /// `inside` or `outside`.
    pub side: String,
    pub twin: Option<String>,
    pub mac: String,
    pub mtu_bytes: u16,
    pub link_up: bool,
    pub queues: u16,
    pub vrf: u16,
    /// Each as `192.0.2.1`.
    pub addresses: Vec<String>,
    pub rx_packets: u64,
    pub tx_packets: u64,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
    /// Frames the device lost for want of buffers.
    pub rx_missed: u64,
    pub tx_errors: u64,
}

/// One entry of the SPD.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyRow {
    pub id: u32,
    /// `in` or `out`.
    pub direction: String,
    /// `protect`, `bypass` or `discard`.
    pub action: String,
    /// Of protect.
    pub child: Option<u32>,
    /// Lower is first.
    pub priority: u32,
    pub vrf: u16,
    /// 0 is any.
    pub interface: u16,
    /// Such as `10.1.0.0/24[udp/7000]`.
    pub local_ts: String,
    pub remote_ts: String,
}

/// One SA in one direction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SaRow {
    pub id: u32,
    pub child: u32,
    /// `in` or `out`.
    pub direction: String,
    pub spi: Spi,
    /// Of a static SA.
    pub name: Option<String>,
    pub local: String,
    pub remote: String,
    pub udp_encapsulation: bool,
    /// Such as `AES_GCM_16-128/ESN`.
    pub algorithm: String,
    /// Outbound: whether the child sends on this one.
    pub active: bool,
    pub packets: u64,
    pub bytes: u64,
    /// Outbound: last used; inbound: highest authenticated.
    pub sequence: u64,
    /// Inbound; 0 is off.
    pub window_bits: u32,
    pub replay_drops: u64,
    pub auth_drops: u64,
    /// None: never used.
    pub idle_s: Option<u64>,
}

/// One route as workers see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RouteRow {
    pub vrf: u16,
    /// Such as `10.2.0.0/24`.
    pub prefix: String,
    /// None: on link.
    pub gateway: Option<String>,
    /// Port by name; none for a discard.
    pub port: Option<String>,
    /// `forward`, `local` or `discard`.
    pub kind: String,
}

/// One neighbour on a twin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NeighbourRow {
    pub port: String,
    pub address: String,
    /// None while unresolved.
    pub mac: Option<String>,
    /// The kernel's: `reachable`, `stale`, `permanent` and so on; `none` when it has forgotten it.
    pub state: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_answers_have_the_documented_form() {
        let get: Get = serde_json::from_str(r#"{"get":"neighbours"}"#).unwrap();
        assert_eq!(get.get, TableName::Neighbours);
        for wrong in [
            r#"{"get":"keys"}"#,
            r#"{"got":"sas"}"#,
            "[]",
            r#"{"get":"sas","x":1}"#,
        ] {
            assert!(serde_json::from_str::<Get>(wrong).is_err(), "{wrong}");
        }
        let error = Table::Error("no".to_owned());
        assert_eq!(serde_json::to_string(&error).unwrap(), r#"{"error":"no"}"#);
        assert_eq!(
            serde_json::to_string(&Spi(0x10ff)).unwrap(),
            r#""0x000010ff""#
        );
        let rows = Table::Counters(vec![CounterRow {
            name: "rx".to_owned(),
            value: u64::MAX,
            help: "h".to_owned(),
            drop: false,
        }]);
        let text =
            r#"{"counters":[{"name":"rx","value":18446744073709551615,"help":"h","drop":false}]}"#;
        assert_eq!(serde_json::to_string(&rows).unwrap(), text);
    }
}
