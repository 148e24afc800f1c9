//! Every number that the dataplane counts, and why a packet is dropped.
//!
//! Each owner (a worker, or the control thread) bumps private numbers and publishes them every few
//! rounds into its own block of the D region; a reader adds the blocks up. One table below gives
//! number, name and sentence of each counter, so no counter can lack a description.
//!
//! At rest [`Totals::unaccounted`] is 0: every packet that came in went out, went to the tap, is
//! held for later or was dropped for a reason.

use crate::id::MAX_PORTS;
use crate::shm::ReadWord;
use crate::sync::{AtomicU64, Ordering};

macro_rules! table {
    (
        $(#[$doc:meta])* $type:ident
        $($variant:ident = $number:literal $name:literal $sentence:literal;)*
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum $type {
            $(#[doc = $sentence] $variant = $number,)*
        }

        impl $type {
            /// All of them in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant),*];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// Its place in a block and in [`ALL`](Self::ALL).
            #[must_use]
            pub const fn number(self) -> usize {
                self as usize
            }

            /// The one with this number.
            #[must_use]
            pub fn from_number(number: usize) -> Option<Self> {
                Self::ALL.get(number).copied()
            }

            /// What it is called in metrics and in `culvert counters`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// One sentence for a person.
            #[must_use]
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$variant => $sentence,)* }
            }
        }

        impl core::fmt::Display for $type {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

table! {
    /// What a worker or the control thread counts besides drops.
    Counter
    Rx = 0 "rx" "Packets received from ports.";
    Tx = 1 "tx" "Packets given to ports for sending.";
    Punted = 2 "punted" "Packets for the gateway itself, handed to a port's tap twin.";
    Held = 3 "held" "Packets kept for later: waiting for a neighbour or in a handover ring.";
    Injected = 4 "injected" "Packets that Linux sent through a tap twin.";
    Generated = 5 "generated" "Packets that the dataplane made itself, ICMP errors for instance.";
    HandedOver = 6 "handed_over" "Packets given to the worker that owns their outbound SA.";
    TakenOver = 7 "taken_over" "Packets taken from another worker because this one owns their SA.";
    RxBatches = 8 "rx_batches" "Receive bursts with at least one packet.";
    EmptyPolls = 9 "empty_polls" "Receive bursts with none.";
    Sleeps = 10 "sleeps" "Times the worker gave its core away because nothing came.";
    Encapsulated = 11 "encapsulated" "Packets put into ESP.";
    EncapsulatedBytes = 12 "encapsulated_bytes" "Inner bytes put into ESP.";
    Decapsulated = 13 "decapsulated" "Packets taken out of ESP.";
    DecapsulatedBytes = 14 "decapsulated_bytes" "Inner bytes taken out of ESP.";
    CryptoBatches = 15 "crypto_batches" "Calls of the crypto backend.";
    Bypassed = 16 "bypassed" "Clear packets that a bypass policy let pass.";
    FlowCacheHits = 17 "flow_cache_hits" "Policy decisions found in the cache.";
    FlowCacheMisses = 18 "flow_cache_misses" "Policy decisions made by a search.";
    Acquires = 19 "acquires" "Times IKE was asked for an SA.";
    NeighbourRequests = 20 "neighbour_requests" "Neighbours that the kernel was asked to resolve.";
    MappingChanges = 21 "mapping_changes" "Authenticated packets from a new outer address or port.";
    PmtuLearned = 22 "pmtu_learned" "Path MTUs that were lowered because a router said so.";
    Rounds = 23 "rounds" "Rounds of the worker loop.";
    // With `stage_clock` only; the clock's own cost is in them.
    StageTurn = 24 "stage_turn_cycles" "TSC cycles outside of all stages of a round with packets.";
    StageRx = 25 "stage_rx_cycles" "TSC cycles in receive bursts and in taking frames in.";
    StageClassify = 26 "stage_classify_cycles" "TSC cycles in looking at headers.";
    StageLookup = 27 "stage_lookup_cycles" "TSC cycles in SAD, SPD and FIB.";
    StageReplay = 28 "stage_replay_cycles" "TSC cycles in looking at replay windows.";
    StageCrypto = 29 "stage_crypto_cycles" "TSC cycles in crypto.";
    StageEncap = 30 "stage_encap_cycles" "TSC cycles in outer headers, sequence numbers and moving windows.";
    StageTx = 31 "stage_tx_cycles" "TSC cycles in Ethernet headers and transmit bursts.";
    Cycles = 32 "cycles" "TSC cycles of the worker, asleep or awake.";
    BusyCycles = 33 "busy_cycles" "TSC cycles of rounds with packets.";
    Lent = 34 "lent" "Packets whose crypto was lent to crypto workers.";
    TakenBack = 35 "taken_back" "Lent packets that no crypto worker had begun with, done by the worker.";
}

table! {
    /// Why a packet was dropped. An error in the dataplane is one of these.
    DropReason
    // The frame.
    MalformedEthernet = 0 "malformed_ethernet" "The frame is shorter than an Ethernet header.";
    NotForUs = 1 "not_for_us" "The destination MAC address is another's.";
    Vlan = 2 "vlan" "The frame has a VLAN tag, which no port is configured for.";
    UnsupportedEthertype = 3 "unsupported_ethertype" "The EtherType is none that is forwarded.";
    ChainedMbuf = 4 "chained_mbuf" "The frame lies in several buffers.";
    OwnFrame = 5 "own_frame" "The source MAC address is the port's own.";
    MalformedArp = 6 "malformed_arp" "The ARP message is too short or not for Ethernet and IPv4.";
    // The outer or only IP header.
    MalformedIpv4 = 7 "malformed_ipv4" "Version, header length or total length is wrong.";
    Ipv4Checksum = 8 "ipv4_checksum" "The IPv4 header checksum is wrong.";
    Ipv4Options = 9 "ipv4_options" "The IPv4 options are malformed or a source route.";
    MalformedIpv6 = 10 "malformed_ipv6" "Version or payload length is wrong.";
    Ipv6Extension = 11 "ipv6_extension" "An IPv6 extension header is malformed or too far in.";
    Fragment = 12 "fragment" "A fragment where reassembly would be needed.";
    BadAddress = 13 "bad_address" "A source or destination address that never is on a wire.";
    LinkLocal = 14 "link_local" "A link-local address, which is not forwarded.";
    Multicast = 15 "multicast" "Multicast, which is not forwarded.";
    Broadcast = 16 "broadcast" "Broadcast, which is not forwarded.";
    TtlExceeded = 17 "ttl_exceeded" "TTL or hop limit is used up.";
    // What IP carries.
    MalformedUdp = 18 "malformed_udp" "The UDP length does not fit the packet.";
    UdpChecksum = 19 "udp_checksum" "The UDP checksum is wrong or, in IPv6, missing.";
    MalformedTransport = 20 "malformed_transport" "The packet ends before its ports or ICMP type.";
    Keepalive = 21 "keepalive" "A NAT keepalive (RFC 3948 2.3), which has done its work.";
    AhUnsupported = 22 "ah_unsupported" "AH, which is not built.";
    // ESP, inbound.
    MalformedEsp = 23 "malformed_esp" "Too short for ESP, or the ciphertext is not aligned.";
    UnknownSpi = 24 "unknown_spi" "No SA has this SPI.";
    WrongSaUse = 25 "wrong_sa_use" "The SA has another direction, address, VRF or encapsulation.";
    Replayed = 26 "replayed" "The sequence number was seen before.";
    Late = 27 "late" "The sequence number is left of the replay window.";
    AuthFailed = 28 "auth_failed" "The integrity check value is wrong.";
    BadPadding = 29 "bad_padding" "The ESP padding is not 1, 2, 3 or longer than the packet.";
    BadNextHeader = 30 "bad_next_header" "The next header is none that the SA's mode can carry.";
    DummyPacket = 31 "dummy_packet" "A dummy packet (RFC 4303 2.6), made to be thrown away.";
    MalformedInner = 32 "malformed_inner" "The decrypted packet is not a whole IP packet.";
    InnerSelector = 33 "inner_selector" "The decrypted packet does not match its SA's selectors.";
    EcnIllegal = 34 "ecn_illegal" "Outer CE over an inner packet that is not ECN-capable.";
    // Policy.
    NotReady = 35 "not_ready" "No policies have been committed yet.";
    NoPolicy = 36 "no_policy" "No policy matches, which means discard.";
    DiscardPolicy = 37 "discard_policy" "A discard policy matches.";
    NoSa = 38 "no_sa" "A protect policy matches, but its child has no outbound SA yet.";
    ClearOfProtected = 39 "clear_of_protected" "A clear packet that should have come in ESP.";
    SequenceOverflow = 40 "sequence_overflow" "The SA has no sequence number left.";
    HardLimit = 41 "hard_limit" "The SA has reached its hard limit of bytes or packets.";
    SaDeleted = 42 "sa_deleted" "The SA was deleted while the packet was under way.";
    // Routes and sizes.
    NoRoute = 43 "no_route" "There is no route to the destination.";
    ForeignRoute = 44 "foreign_route" "The route leads through a device that is no port.";
    DiscardRoute = 45 "discard_route" "The route is a blackhole, unreachable or prohibit route.";
    NeighbourUnresolved = 46 "neighbour_unresolved" "The next hop's MAC address is not known.";
    TooBig = 47 "too_big" "Too big for the path and no answer is due: no DF, or an ICMP error.";
    TooBigAnswered = 48 "too_big_answered" "Too big for the path with DF, answered with ICMP.";
    NoHeadroom = 49 "no_headroom" "The buffer has no room for the outer headers.";
    // Queues and limits.
    LimitIkeInit = 50 "limit_ike_init" "More IKE_SA_INIT requests than the limit.";
    LimitIkeCookie = 51 "limit_ike_cookie" "More IKE_SA_INIT with cookie than the limit.";
    LimitIkeEstablished = 52 "limit_ike_established" "More messages of IKE SAs than the limit.";
    LimitNeighbour = 53 "limit_neighbour" "More ARP, ND, MLD and IGMP than the limit.";
    LimitOther = 54 "limit_other" "More other packets for the gateway itself than the limit.";
    LimitIcmp = 55 "limit_icmp" "More ICMP errors of our own than the limit.";
    PuntFull = 56 "punt_full" "The ring from the worker to the control thread is full.";
    InjectFull = 57 "inject_full" "The ring from the control thread to the worker is full.";
    TapFull = 58 "tap_full" "The tap twin takes no more packets.";
    TapFailed = 59 "tap_failed" "The tap twin could not be written.";
    HandoverFull = 60 "handover_full" "The ring to the worker that owns the SA is full.";
    TxFull = 61 "tx_full" "The port's transmit queue is full.";
    PortDown = 62 "port_down" "The port is down or gone.";
    NoBuffer = 63 "no_buffer" "The buffer pool is empty.";
    HeldTooLong = 64 "held_too_long" "The packet waited too long, or too many waited.";
    IkeAbsent = 65 "ike_absent" "A message for IKE while no IKE process is there.";
    Stopping = 66 "stopping" "The dataplane is stopping.";
    CryptoFailed = 67 "crypto_failed" "The crypto backend could not do its work.";
    Internal = 68 "internal" "A state that should not be; please report it.";
    SequenceZero = 69 "sequence_zero" "The sequence number is 0, which no sender uses.";
}

table! {
    /// What is counted for each port.
    PortCounter
    RxPackets = 0 "rx_packets" "Packets received.";
    RxBytes = 1 "rx_bytes" "Bytes received, Ethernet header included.";
    TxPackets = 2 "tx_packets" "Packets given to the port for sending.";
    TxBytes = 3 "tx_bytes" "Bytes given to the port for sending, Ethernet header included.";
}

const DROPS_AT: usize = Counter::COUNT;
const PORTS_AT: usize = DROPS_AT + DropReason::COUNT;
const USED_WORDS: usize = PORTS_AT + MAX_PORTS * PortCounter::COUNT;

/// Words of one owner's block: whole pairs of cache lines, so that owners share none.
pub const BLOCK_WORDS: usize = USED_WORDS.next_multiple_of(16);

/// The numbers of one owner. Bumping is a plain addition.
#[derive(Clone)]
pub struct Counts {
    words: Box<[u64; BLOCK_WORDS]>,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            words: Box::new([0; BLOCK_WORDS]),
        }
    }
}

impl Counts {
    /// All zero.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts `n` more.
    #[inline]
    pub fn add(&mut self, counter: Counter, n: u64) {
        self.bump(counter.number(), n);
    }

    /// Sets a gauge; [`Counter::Held`] is one.
    #[inline]
    pub fn set(&mut self, counter: Counter, n: u64) {
        self.words[counter.number()] = n;
    }

    /// Counts one dropped packet.
    #[inline]
    pub fn drop_one(&mut self, reason: DropReason) {
        self.drop_many(reason, 1);
    }

    /// Counts `n` dropped packets.
    #[inline]
    pub fn drop_many(&mut self, reason: DropReason, n: u64) {
        self.bump(DROPS_AT + reason.number(), n);
    }

    /// Counts for a port; a port at or above [`MAX_PORTS`] does not exist and is not counted.
    #[inline]
    pub fn add_port(&mut self, port: usize, counter: PortCounter, n: u64) {
        if port < MAX_PORTS {
            self.bump(port_word(port, counter), n);
        }
    }

    /// The number now.
    #[must_use]
    pub fn get(&self, counter: Counter) -> u64 {
        self.words[counter.number()]
    }

    /// Dropped for this reason so far.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.words[DROPS_AT + reason.number()]
    }

    /// Makes the numbers visible to readers. `block` is the owner's own.
    pub fn publish(&self, block: &Block<'_>) {
        for (shared, private) in block.words.iter().zip(self.words.iter()) {
            shared.store(*private, Ordering::Relaxed);
        }
    }

    #[inline]
    fn bump(&mut self, word: usize, n: u64) {
        self.words[word] = self.words[word].wrapping_add(n);
    }
}

/// Where one owner publishes.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    words: &'a [AtomicU64],
}

impl<'a> Block<'a> {
    /// `words` are the [`BLOCK_WORDS`] of one owner.
    pub(crate) const fn new(words: &'a [AtomicU64]) -> Self {
        Self { words }
    }
}

/// The numbers of one or more owners, added up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Totals {
    words: Vec<u64>,
}

impl Default for Totals {
    fn default() -> Self {
        Self {
            words: vec![0; BLOCK_WORDS],
        }
    }
}

impl Totals {
    /// Adds the blocks of all owners up.
    pub(crate) fn read(blocks: &[ReadWord]) -> Self {
        let mut totals = Self::default();
        for block in blocks.chunks_exact(BLOCK_WORDS) {
            totals.add(block);
        }
        totals
    }

    fn add(&mut self, block: &[ReadWord]) {
        for (sum, word) in self.words.iter_mut().zip(block) {
            *sum = sum.wrapping_add(word.load(Ordering::Relaxed));
        }
    }

    /// A counter's sum.
    #[must_use]
    pub fn get(&self, counter: Counter) -> u64 {
        self.word(counter.number())
    }

    /// Packets dropped for this reason.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.word(DROPS_AT + reason.number())
    }

    /// Packets dropped for any reason.
    #[must_use]
    pub fn dropped_in_all(&self) -> u64 {
        DropReason::ALL
            .iter()
            .map(|reason| self.dropped(*reason))
            .sum()
    }

    /// A port's sum; 0 for a port that cannot exist.
    #[must_use]
    pub fn port(&self, port: usize, counter: PortCounter) -> u64 {
        if port < MAX_PORTS {
            self.word(port_word(port, counter))
        } else {
            0
        }
    }

    /// Packets that came in and are nowhere; at rest this is 0, under way it may be a little off.
    ///
    /// What came in is received, injected or generated; what became of it is sent, punted, held or
    /// dropped. A handover moves a packet between workers and changes nothing in the sum.
    #[must_use]
    pub fn unaccounted(&self) -> i128 {
        let sum = |counters: &[Counter]| -> i128 {
            counters
                .iter()
                .map(|counter| i128::from(self.get(*counter)))
                .sum()
        };
        let came = sum(&[Counter::Rx, Counter::Injected, Counter::Generated]);
        let left = sum(&[Counter::Tx, Counter::Punted, Counter::Held]);
        came - left - i128::from(self.dropped_in_all())
    }

    fn word(&self, at: usize) -> u64 {
        self.words.get(at).copied().unwrap_or_default()
    }
}

const fn port_word(port: usize, counter: PortCounter) -> usize {
    PORTS_AT + port * PortCounter::COUNT + counter.number()
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn shared(words: usize) -> Vec<AtomicU64> {
        (0..words).map(|_| AtomicU64::new(0)).collect()
    }

    #[test]
    fn numbers_are_places_and_names_are_unique() {
        for (place, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason.number(), place);
            assert_eq!(DropReason::from_number(place), Some(*reason));
        }
        for (place, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(counter.number(), place);
        }
        let names: HashSet<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), DropReason::COUNT);
        assert_eq!(DropReason::from_number(DropReason::COUNT), None);
    }

    #[test]
    fn sentences_end_and_names_fit_metrics() {
        for reason in DropReason::ALL {
            assert!(reason.sentence().ends_with('.') || reason.sentence().contains(';'));
            let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            assert!(reason.name().chars().all(fits), "{reason}");
        }
    }

    #[test]
    fn readers_add_owners_up() {
        let words = shared(2 * BLOCK_WORDS);
        let (first, second) = words.split_at(BLOCK_WORDS);
        let mut counts = Counts::new();
        counts.add(Counter::Rx, 10);
        counts.add(Counter::Tx, 6);
        counts.drop_many(DropReason::Replayed, 3);
        counts.set(Counter::Held, 1);
        counts.add_port(15, PortCounter::TxBytes, 64);
        counts.add_port(16, PortCounter::TxBytes, 99);
        counts.publish(&Block::new(first));
        counts.publish(&Block::new(second));
        let totals = Totals::read(ReadWord::of(&words));
        assert_eq!(totals.get(Counter::Rx), 20);
        assert_eq!(totals.dropped(DropReason::Replayed), 6);
        assert_eq!(totals.dropped_in_all(), 6);
        assert_eq!(totals.port(15, PortCounter::TxBytes), 128);
        assert_eq!(totals.port(16, PortCounter::TxBytes), 0);
        assert_eq!(totals.unaccounted(), 0);
    }

    #[test]
    fn a_lost_packet_shows() {
        let words = shared(BLOCK_WORDS);
        let mut counts = Counts::new();
        counts.add(Counter::Rx, 2);
        counts.add(Counter::Injected, 1);
        counts.add(Counter::Punted, 1);
        counts.drop_one(DropReason::NoRoute);
        counts.publish(&Block::new(&words));
        assert_eq!(Totals::read(ReadWord::of(&words)).unaccounted(), 1);
    }
}
