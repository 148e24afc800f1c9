//! The contract with the real process: a stand-in for IKE that speaks it through crate `api`, dies,
//! comes back, and survives the dataplane. The peer is a real gateway with static SAs.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on stops"
)]

mod net;

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use api::id::{ChildId, Interface, PathId, PolicyId, SaId, Vrf};
use api::record::{
    Action, Algorithm, Child, Command, CopyDscp, Direction, Event, Limits, Mode, Path, Policy, Sa,
    SaKey, Status,
};
use api::region::CommandSizes;
use api::selector::{ANY_PORTS, AddrRange, Selector};
use api::session::{Connection, Message};
use api::shm::Pages;
use api::side::{IkePreparation, IkeSide};
use net::{Net, possible, wait_for};

const KEY_IN: [u8; 20] = [1; 20];
const KEY_OUT: [u8; 20] = [2; 20];
const PEER_SPI: u32 = 4098;
const PATIENCE: Duration = Duration::from_secs(3);

fn sa_in() -> SaId {
    SaId::new(1, 0, 1).unwrap()
}

fn sa_out() -> SaId {
    SaId::new(1, 1, 1).unwrap()
}

/// What stands in for culvert-ike.
struct Ike {
    connection: Connection,
    side: IkeSide,
    /// What the last IKE had parked.
    park: Option<OwnedFd>,
    /// The D region, to hand to the next dataplane.
    region: OwnedFd,
}

/// Says hello; `None` if the dataplane refuses.
fn connect(net: &Net, park: Option<OwnedFd>, older: Vec<OwnedFd>) -> Option<Ike> {
    let connection = Connection::connect(&net.run_dir("g").join("dataplane.sock")).unwrap();
    let sizes = CommandSizes {
        command_capacity: 256,
        pages: Pages::Ordinary,
    };
    let preparation = IkePreparation::new(&sizes).unwrap();
    let hello = preparation.hello(park, older).unwrap();
    connection.send(&Message::Hello(hello)).unwrap();
    let end = Instant::now() + PATIENCE;
    loop {
        match connection.receive().unwrap() {
            Some(Message::Welcome(welcome)) => {
                let region = welcome.state.try_clone().unwrap();
                let (side, park) = preparation.start(welcome).unwrap();
                return Some(Ike {
                    connection,
                    side,
                    park,
                    region,
                });
            }
            Some(Message::Refused) => return None,
            Some(other) => panic!("{other:?}"),
            None => assert!(Instant::now() < end, "no welcome"),
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl Ike {
    fn event(&mut self) -> Event {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(event) = self.side.poll().unwrap() {
                return event;
            }
            assert!(Instant::now() < end, "no event");
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Sends commands and gives how each ended; other events are kept apart.
    fn run(&mut self, commands: &[Command]) -> (Vec<Status>, Vec<Event>) {
        let first = self.side.submit(&commands[0]).unwrap();
        for command in &commands[1..] {
            self.side.submit(command).unwrap();
        }
        let (mut statuses, mut others) = (Vec::new(), Vec::new());
        while statuses.len() < commands.len() {
            match self.event() {
                Event::Completed { command, status } => {
                    assert_eq!(command, first + statuses.len() as u64, "in order");
                    statuses.push(status);
                }
                other => others.push(other),
            }
        }
        (statuses, others)
    }
}

fn sa(direction: Direction, adopt: bool) -> Command {
    let inbound = direction == Direction::Inbound;
    let id = if inbound { sa_in() } else { sa_out() };
    Command::SaAdd(Sa {
        id,
        child: ChildId(1),
        direction,
        spi: if inbound { id.0 } else { PEER_SPI },
        algorithm: Algorithm::AesGcm16,
        key: SaKey::new(if inbound { &KEY_IN } else { &KEY_OUT }).unwrap(),
        esn: true,
        window_bits: if inbound { 1024 } else { 0 },
        start_sequence: 0,
        adopt,
        limits: Limits::default(),
    })
}

fn policy(id: u32, direction: Direction) -> Command {
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let net = |a: &str, b: &str| AddrRange {
        first: address(a),
        last: address(b),
    };
    Command::PolicyAdd(Policy {
        id: PolicyId(id),
        direction,
        action: Action::Protect(ChildId(1)),
        priority: 100,
        vrf: Vrf(0),
        interface: Interface(0),
        selector: Selector {
            local: net("10.1.0.0", "10.1.0.255"),
            remote: net("10.3.0.0", "10.3.0.255"),
            protocol: 0,
            local_ports: ANY_PORTS,
            remote_ports: ANY_PORTS,
        },
    })
}

/// Everything of one tunnel.
fn tunnel(adopt: bool) -> Vec<Command> {
    let path = Path {
        id: PathId(1),
        vrf: Vrf(0),
        interface: Interface(0),
        local: "10.2.0.1".parse().unwrap(),
        remote: "10.2.0.2".parse().unwrap(),
        local_port: 0,
        remote_port: 0,
        udp_encapsulation: false,
        mtu_bytes: 0,
        dscp: None,
    };
    let child = Child {
        id: ChildId(1),
        path: PathId(1),
        cookie: 7,
        vrf: Vrf(0),
        interface: Interface(0),
        mode: Mode::Tunnel,
        copy_df: true,
        copy_ecn: true,
        copy_dscp: CopyDscp::Out,
    };
    vec![
        Command::Begin { resync: adopt },
        Command::PathAdd(path),
        Command::ChildAdd(child),
        sa(Direction::Inbound, adopt),
        sa(Direction::Outbound, adopt),
        Command::ActivateOutbound {
            child: ChildId(1),
            sa: sa_out(),
        },
        policy(1, Direction::Inbound),
        policy(2, Direction::Outbound),
        Command::Commit,
    ]
}

/// The peer, with manual keys for the same tunnel.
fn peer(net: &Net) -> std::path::PathBuf {
    let hex = |key: [u8; 20]| {
        key.iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    let text = format!(
        "[[dataplane.ports]]\nname = \"out\"\nside = \"outside\"\n\
         device = \"net_af_packet0,iface=eth0\"\n\
         [[dataplane.static_sas]]\nname = \"g\"\nesp_proposal = \"aes128gcm16-esn\"\n\
         local = \"10.2.0.2\"\nremote = \"10.2.0.1\"\n\
         local_ts = \"10.3.0.0/24\"\nremote_ts = \"10.1.0.0/24\"\n\
         [dataplane.static_sas.inbound]\nspi = {PEER_SPI}\nkey = \"{}\"\nsequence = 0\n\
         [dataplane.static_sas.outbound]\nspi = {}\nkey = \"{}\"\nsequence = 0\n",
        hex(KEY_OUT),
        sa_in().0,
        hex(KEY_IN),
    );
    net.run(
        "b",
        "ip link add inner0 type bridge; ip link set inner0 up; ip address add 10.3.0.1/24 dev inner0",
    );
    net.config_of("b", &text)
}

fn sequence(net: &Net, direction: &str) -> u64 {
    let sas = net.admin("sas").unwrap();
    let row = sas
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["direction"] == direction);
    row.unwrap()["sequence"].as_u64().unwrap()
}

#[test]
fn what_ike_installs_carries_traffic_and_outlives_ike() {
    if !possible() {
        return;
    }
    let net = Net::new();
    let _peer = net.start_in("b", &peer(&net));
    let _g = net.start(&net.config(""));
    let mut ike = connect(&net, None, Vec::new()).unwrap();
    assert!(
        !net.ping("a", "10.3.0.1"),
        "nothing passes before the first commit"
    );
    let (statuses, _) = ike.run(&tunnel(false));
    assert!(
        statuses.iter().all(|status| *status == Status::Ok),
        "{statuses:?}"
    );
    assert!(net.reaches("a", "10.3.0.1"));
    assert_eq!(net.admin("status").unwrap()["ike_connected"], true);
    assert!(
        connect(&net, None, Vec::new()).is_none(),
        "a second IKE is refused"
    );

    // IKE dies: traffic goes on, and the next one finds its parked memory.
    let parked = OwnedFd::from(std::fs::File::create(net.dir.join("parked")).unwrap());
    ike.connection.send(&Message::Park(parked)).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    drop(ike);
    assert!(net.reaches("a", "10.3.0.1"));
    assert_eq!(net.admin("status").unwrap()["ike_connected"], false);
    let mut ike = connect(&net, None, Vec::new()).unwrap();
    assert!(ike.park.is_some());
    assert_eq!(ike.side.session(), 2);

    // The same again is no change; what is not named again goes.
    let (statuses, _) = ike.run(&tunnel(true));
    let fine = |status: &Status| status.is_success();
    assert!(statuses.iter().all(fine), "{statuses:?}");
    assert!(net.reaches("a", "10.3.0.1"));
    let (statuses, others) = ike.run(&[Command::Begin { resync: true }, Command::Commit]);
    assert!(statuses.iter().all(fine), "{statuses:?}");
    let mut deleted: Vec<Event> = others;
    while deleted.len() < 2 {
        deleted.push(ike.event());
    }
    assert!(
        deleted.contains(&Event::Deleted { sa: sa_in() }),
        "{deleted:?}"
    );
    assert!(
        deleted.contains(&Event::Deleted { sa: sa_out() }),
        "{deleted:?}"
    );
    assert!(!net.ping("a", "10.3.0.1"));
}

#[test]
fn a_new_dataplane_goes_on_with_certain_numbers_and_refuses_uncertain_ones() {
    if !possible() {
        return;
    }
    let net = Net::new();
    let _peer = net.start_in("b", &peer(&net));
    let config = net.config("");
    let g = net.start(&config);
    let mut ike = connect(&net, None, Vec::new()).unwrap();
    ike.run(&tunnel(false));
    assert!(net.reaches("a", "10.3.0.1"));
    let (sent, received) = (sequence(&net, "out"), sequence(&net, "in"));
    g.kill();
    assert!(!net.ping("a", "10.3.0.1"));

    let _again = net.start(&config);
    // Without the dead one's memory nobody knows which numbers were used.
    let mut stranger = connect(&net, None, Vec::new()).unwrap();
    let (statuses, _) = stranger.run(&tunnel(true));
    assert_eq!(statuses[3], Status::Uncertain);
    assert_eq!(statuses[4], Status::Uncertain);
    assert_eq!(net.admin("sas").unwrap().as_array().unwrap().len(), 0);
    drop(stranger);
    wait_for("end of the session", PATIENCE, || {
        net.admin("status").unwrap()["ike_connected"] == false
    });

    let mut ike = connect(&net, None, vec![ike.region]).unwrap();
    let (statuses, _) = ike.run(&tunnel(true));
    assert!(
        statuses.iter().all(|status| status.is_success()),
        "{statuses:?}"
    );
    assert_eq!(
        (sequence(&net, "out"), sequence(&net, "in")),
        (sent, received)
    );
    assert!(net.reaches("a", "10.3.0.1"));
    assert!(sequence(&net, "out") >= sent + 3);
    assert_eq!(net.counter("replayed"), 0);
}
