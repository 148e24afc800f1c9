//! The JSON of the two admin sockets. docs/admin.md is the reference; culvert-dataplane writes the
//! same form from its own structs.
//!
//! `RUN_DIR/ike.sock`: one line with a [`Request`], answered by lines with one [`Reply`] each, the
//! last of which is `{"ok":true}` or `{"error":"..."}`.
//! `RUN_DIR/dataplane-admin.sock`: one line `{"get":"TABLE"}`, answered by one [`Table`] line.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest line of either protocol: 2^20 SAs with room to spare.
pub const LINE_MAX_BYTES: u64 = 1 << 30;
/// Name of culvert-ike's socket in the run directory.
pub const IKE_SOCKET: &str = "ike.sock";
/// Name of culvert-dataplane's socket in the run directory.
pub const DATAPLANE_SOCKET: &str = "dataplane-admin.sock";

/// A 32-bit SPI, written as `"0x000010ff"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Spi(pub u32);

impl Serialize for Spi {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:#010x}", self.0))
    }
}

impl<'de> Deserialize<'de> for Spi {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits = text.strip_prefix("0x").unwrap_or(&text);
        u32::from_str_radix(digits, 16)
            .map(Self)
            .map_err(serde::de::Error::custom)
    }
}

/// What culvert-ike can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Answered by one `status`.
    Status,
    /// Answered by one `sa` for each IKE SA.
    ListSas,
    /// Answered by `log` lines, and the end when the child (or IKE SA) is up.
    Initiate {
        /// Connection; may be left out if the child's name is found in one connection only.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ike: Option<String>,
        /// Child; without it an IKE SA alone.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        child: Option<String>,
        timeout_s: u64,
    },
    /// Answered by `log` lines, and the end when the SAs are gone.
    Terminate {
        #[serde(flatten)]
        target: Target,
        timeout_s: u64,
    },
    /// Answered by `log` lines, and the end when the new SAs are in use.
    Rekey {
        #[serde(flatten)]
        target: Target,
        timeout_s: u64,
    },
    /// Reads the configuration again; `log` lines name its faults.
    Reload,
    /// Ends culvert-ike and leaves its SAs for the next one.
    Handover,
}

/// SAs by name or number; every field that is set must match.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ike: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub child: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ike_id: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub child_id: Option<u32>,
}

/// One line of an answer of culvert-ike.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    Status(IkeStatus),
    Sa(Box<IkeSa>),
    Log(LogLine),
    /// The end: done.
    Ok(bool),
    /// The end: failed, with the reason and the fix.
    Error(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// `error`, `warn`, `info` or `debug`.
    pub level: String,
    pub text: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IkeStatus {
    pub version: String,
    pub pid: u32,
    pub uptime_s: u64,
    /// Whether the contract with the dataplane stands.
    pub dataplane_connected: bool,
    pub connections: u64,
    pub ike_sas: u64,
    pub half_open: u64,
    pub child_sas: u64,
    /// Counters of the IKE process by name.
    #[serde(default)]
    pub counters: BTreeMap<String, u64>,
}

/// Address, port and identity of one end of an IKE SA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub address: String,
    pub port: u16,
    pub id: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IkeSa {
    pub connection: String,
    pub id: u64,
    /// `connecting`, `established`, `rekeying`, `deleting`.
    pub state: String,
    pub initiator: bool,
    pub local: Endpoint,
    pub remote: Endpoint,
    /// 16 hex digits.
    pub spi_initiator: String,
    pub spi_responder: String,
    /// Such as `AES_GCM_16-256/PRF_HMAC_SHA2_256/CURVE_25519`; empty before it is chosen.
    pub proposal: String,
    pub nat_local: bool,
    pub nat_remote: bool,
    pub age_s: u64,
    /// None: never.
    pub rekey_in_s: Option<u64>,
    pub children: Vec<ChildSa>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChildSa {
    pub name: String,
    /// Its number in the dataplane, the same through rekeys.
    pub id: u32,
    /// `installed`, `rekeying`, `deleting`.
    pub state: String,
    /// `tunnel`.
    pub mode: String,
    pub udp_encapsulation: bool,
    /// Such as `AES_GCM_16-256/ESN`.
    pub proposal: String,
    pub spi_in: Spi,
    pub spi_out: Spi,
    pub local_ts: Vec<String>,
    pub remote_ts: Vec<String>,
    pub age_s: u64,
    /// None: never.
    pub rekey_in_s: Option<u64>,
    /// None: never.
    pub expires_in_s: Option<u64>,
}

/// `{"get":"counters"}` to the dataplane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Get {
    pub get: TableName,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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

/// The dataplane's one-line answer: `{"counters":[...]}` or `{"error":"..."}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Table {
    Status(DataplaneStatus),
    Counters(Vec<Counter>),
    Ports(Vec<PortRow>),
    Policies(Vec<PolicyRow>),
    Sas(Vec<SaRow>),
    Routes(Vec<RouteRow>),
    Neighbours(Vec<NeighbourRow>),
    Error(String),
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataplaneStatus {
    pub version: String,
    pub pid: u32,
    pub uptime_s: u64,
    /// Worker threads, one core each.
    pub workers: Vec<WorkerRow>,
    pub crypto_workers: Vec<CryptoWorkerRow>,
    /// Name of the crypto backend in use.
    pub crypto: String,
    /// Whether memory is in hugepages.
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

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerRow {
    pub core: u32,
    pub rx_packets: u64,
    pub tx_packets: u64,
    /// Share of its time with packets, in percent.
    pub busy_percent: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CryptoWorkerRow {
    pub core: u32,
    /// Share of its time with something to do, in percent.
    pub busy_percent: u32,
}

/// One counter: number, name and sentence come from one table of the dataplane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    pub name: String,
    pub value: u64,
    /// What it counts, in one sentence.
    pub help: String,
    /// Whether it counts dropped packets.
    #[serde(default)]
    pub drop: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Each as `192.0.2.1/24`.
    pub addresses: Vec<String>,
    pub rx_packets: u64,
    pub tx_packets: u64,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
    /// Frames the device lost for want of buffers.
    pub rx_missed: u64,
    pub tx_errors: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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

/// One SA in one direction, as the dataplane counts it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SaRow {
    pub id: u32,
    pub child: u32,
    /// `in` or `out`.
    pub direction: String,
    pub spi: Spi,
    /// Of a static SA.
    #[serde(default)]
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

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeighbourRow {
    pub port: String,
    pub address: String,
    /// None while unresolved.
    pub mac: Option<String>,
    /// `reachable`, `stale`, `incomplete`.
    pub state: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip<T>(value: &T, json: &str)
    where
        T: Serialize + for<'de> Deserialize<'de> + PartialEq + std::fmt::Debug,
    {
        assert_eq!(serde_json::to_string(value).unwrap(), json);
        assert_eq!(&serde_json::from_str::<T>(json).unwrap(), value);
    }

    #[test]
    fn requests_have_the_documented_form() {
        round_trip(&Request::ListSas, r#"{"command":"list-sas"}"#);
        let initiate = Request::Initiate {
            ike: None,
            child: Some("net".to_owned()),
            timeout_s: 30,
        };
        round_trip(
            &initiate,
            r#"{"command":"initiate","child":"net","timeout_s":30}"#,
        );
        let target = Target {
            ike_id: Some(7),
            ..Target::default()
        };
        let terminate = Request::Terminate {
            target,
            timeout_s: 5,
        };
        round_trip(
            &terminate,
            r#"{"command":"terminate","ike_id":7,"timeout_s":5}"#,
        );
        round_trip(
            &Get {
                get: TableName::Sas,
            },
            r#"{"get":"sas"}"#,
        );
    }

    #[test]
    fn replies_have_the_documented_form() {
        round_trip(&Reply::Ok(true), r#"{"ok":true}"#);
        round_trip(&Reply::Error("no".to_owned()), r#"{"error":"no"}"#);
        let line = LogLine {
            level: "info".to_owned(),
            text: "x".to_owned(),
        };
        round_trip(&Reply::Log(line), r#"{"log":{"level":"info","text":"x"}}"#);
        round_trip(&Spi(0x10ff), r#""0x000010ff""#);
        let counters =
            r#"{"counters":[{"name":"rx","value":18446744073709551615,"help":"h","drop":false}]}"#;
        let table: Table = serde_json::from_str(counters).unwrap();
        assert_eq!(serde_json::to_string(&table).unwrap(), counters);
    }

    #[test]
    fn other_forms_are_refused() {
        for json in [
            r#"{"command":"destroy"}"#,
            r#"{"command":"initiate"}"#,
            r#"{"comand":"status"}"#,
            r#"{"command":"initiate","timeout_s":-1}"#,
        ] {
            assert!(serde_json::from_str::<Request>(json).is_err(), "{json}");
        }
        assert!(serde_json::from_str::<Spi>(r#""0x1_0000_0000""#).is_err());
    }
}
