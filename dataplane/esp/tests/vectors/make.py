#!/usr/bin/python3
"""Makes outbound.txt and inbound.txt beside this file with scapy and python3-cryptography.

Sealing is deterministic (the IV is the sequence number), so our output must equal scapy's byte for
byte, and scapy's packets must open with ours. Run by hand after a change; needs python3-scapy 2.5:
    /usr/bin/python3 make.py
"""
import os
import struct

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from scapy.all import ICMP, IP, IPv6, Raw, UDP, raw
from scapy.layers.inet6 import ICMPv6EchoRequest, in6_chksum
from scapy.layers.ipsec import ESP, SecurityAssociation

HERE = os.path.dirname(os.path.abspath(__file__))
LOCAL = {4: "198.51.100.1", 6: "2001:db8:100::1"}
REMOTE = {4: "203.0.113.77", 6: "2001:db8:200::2"}
KEYS = {16: bytes(range(20)), 24: bytes(range(100, 128)), 32: bytes(range(200, 236))}


def ipv4_id(spi, sequence):
    """Counts with the sequence number from a start that depends on the SPI."""
    return (((spi >> 16) ^ spi) + sequence) & 0xFFFF


def flow_label(spi):
    """Fibonacci hash of the SPI, top 20 bits."""
    return (spi * 0x9E3779B1 & 0xFFFFFFFF) >> 12


def inner_packet(version, length, tos, df):
    """An inner packet of exactly `length` bytes."""
    if version == 4:
        head = IP(src="10.1.0.2", dst="10.2.0.3", ttl=63, id=4711, tos=tos, flags="DF" if df else 0)
        body = head / ICMP(id=7, seq=9) if length >= 28 else head
    else:
        head = IPv6(src="fd00:1::2", dst="fd00:2::3", hlim=63, tc=tos, fl=0x12345)
        body = head / ICMPv6EchoRequest(id=7, seq=9) if length >= 48 else head
    fill = length - len(raw(body))
    packet = raw(body / Raw(bytes(i & 0xFF for i in range(fill))) if fill else body)
    assert len(packet) == length
    return packet


def tunnel_header(version, spi, sequence, tos, df):
    if version == 4:
        return IP(src=LOCAL[4], dst=REMOTE[4], ttl=64, id=ipv4_id(spi, sequence), tos=tos,
                  flags="DF" if df else 0)
    return IPv6(src=LOCAL[6], dst=REMOTE[6], hlim=64, tc=tos, fl=flow_label(spi))


def with_udp_fields(outer, version):
    """Length and checksum: scapy 2.5 computes the length before the payload is there, and leaves
    the checksum 0, which RFC 3948 2.1 wants over IPv4 only."""
    at = 20 if version == 4 else 40
    outer = outer[:at + 4] + struct.pack("!HH", len(outer) - at, 0) + outer[at + 8:]
    if version == 4:
        return outer
    checksum = in6_chksum(17, IPv6(outer[:40]), outer[40:])
    return outer[:46] + struct.pack("!H", checksum) + outer[48:]


def seal(case, inner):
    """The outer packet that scapy makes."""
    header = tunnel_header(case["outer"], case["spi"], case["sequence"], case["outer_tos"],
                           case["outer_df"])
    nat = UDP(sport=case["udp"][0], dport=case["udp"][1]) if case["udp"] else None
    sa = SecurityAssociation(ESP, spi=case["spi"], crypt_algo="AES-GCM",
                             crypt_key=KEYS[case["key"]], tunnel_header=header, nat_t_header=nat)
    high, low = case["sequence"] >> 32, case["sequence"] & 0xFFFFFFFF
    packet = (IP if inner[0] >> 4 == 4 else IPv6)(inner)
    sealed = sa.encrypt(packet, seq_num=low, iv=struct.pack("!Q", case["sequence"]),
                        esn_en=case["esn"], esn=high)
    outer = raw(sealed)
    return with_udp_fields(outer, case["outer"]) if nat else outer


def outbound_cases():
    base = {"spi": 0x12345678, "sequence": 1, "esn": False, "key": 16, "udp": None, "inner_tos": 0,
            "inner_df": False, "df": "copy", "dscp": "copy", "ecn": True}
    for outer in (4, 6):
        for inner in (4, 6):
            for udp in (None, (4500, 4500)):
                for length in (40, 61, 62, 63, 64, 1400):
                    yield base | {"outer": outer, "inner": inner, "udp": udp, "length": length}
    common = base | {"outer": 4, "inner": 4, "length": 100}
    for key in (24, 32):
        yield common | {"key": key}
    for sequence in (0xFFFFFFFF, 0x80000000):
        yield common | {"sequence": sequence}
    for sequence in (1, 0xFFFFFFFF, 0x100000001, 0xFEDCBA9876543210, 0xFFFFFFFFFFFFFFFF):
        yield common | {"sequence": sequence, "esn": True, "spi": 0xCAFEBABE}
        yield common | {"sequence": sequence, "esn": True, "outer": 6, "udp": (4500, 61234)}
    for df in ("copy", "set", "clear"):
        for inner_df in (False, True):
            yield common | {"df": df, "inner_df": inner_df}
        yield common | {"df": df, "inner": 6}
    for outer in (4, 6):
        for tos in (0x00, 0x01, 0x02, 0x03, 0xB9, 0xFF):
            for dscp, ecn in (("copy", True), ("copy", False), ("46", True), ("0", False)):
                yield common | {"inner_tos": tos, "outer": outer, "dscp": dscp, "ecn": ecn}


def outer_fields(case):
    """What RFC 4301 5.1.2.1 and RFC 6040 4.1 make of the inner header."""
    dscp = case["inner_tos"] & 0xFC if case["dscp"] == "copy" else int(case["dscp"]) << 2
    ecn = case["inner_tos"] & 3 if case["ecn"] else 0
    inner_df = case["inner"] == 6 or case["inner_df"]
    return {"outer_tos": dscp | ecn,
            "outer_df": {"copy": inner_df, "set": True, "clear": False}[case["df"]]}


def outbound(out):
    out.write("# Made by make.py with scapy. One case a line:\n"
              "# keymat spi sequence esn local remote ports df dscp ecn inner outer\n")
    for case in outbound_cases():
        case |= outer_fields(case)
        inner = inner_packet(case["inner"], case["length"], case["inner_tos"], case["inner_df"])
        ports = ",".join(map(str, case["udp"])) if case["udp"] else "-"
        fields = [KEYS[case["key"]].hex(), f'{case["spi"]:08x}', f'{case["sequence"]:016x}',
                  int(case["esn"]), LOCAL[case["outer"]], REMOTE[case["outer"]], ports, case["df"],
                  case["dscp"], int(case["ecn"]), inner.hex(), seal(case, inner).hex()]
        out.write(" ".join(map(str, fields)) + "\n")


def inbound(out):
    """Plaintexts that our own sealing never makes, in plain ESP over IPv4 with a foreign IV."""
    keymat, spi, sequence = KEYS[32], 0x01020304, 77
    v4 = inner_packet(4, 60, 0, False)
    v6 = inner_packet(6, 60, 0, False)

    def pad(n):
        return bytes(range(1, n + 1))

    cases = [
        ("packet", v4 + pad(2) + b"\x02\x04"),
        ("packet", v6 + pad(2) + b"\x02\x29"),
        ("packet", v4 + pad(254) + b"\xfe\x04"),
        ("packet", v4 + bytes(400) + pad(2) + b"\x02\x04"),  # TFC padding, RFC 4303 2.7
        ("dummy", b"anything goes here" + b"\x00\x3b"),
        ("dummy", b"\x07\x07" + b"\x00\x3b"),
        ("padding", v4 + b"\x01\x03" + b"\x02\x04"),
        ("padding", v4 + b"\x00\x00" + b"\x02\x04"),
        ("padding", v4 + pad(2) + b"\xff\x04"),
        ("next_header", v4 + pad(2) + b"\x02\x06"),
        ("next_header", v4 + pad(2) + b"\x02\x90"),
        ("version", v4 + pad(2) + b"\x02\x29"),
        ("version", v6 + pad(2) + b"\x02\x04"),
        ("total_length", v4[:52] + pad(2) + b"\x02\x04"),
        ("total_length", v6[:52] + pad(2) + b"\x02\x29"),
        ("short", pad(2) + b"\x02\x04"),
        ("checksum", v4[:8] + b"\x09" + v4[9:] + pad(2) + b"\x02\x04"),
    ]
    out.write("# Made by make.py with scapy and python3-cryptography. One case a line:\n"
              "# outcome keymat sequence outer\n")
    for number, (outcome, plaintext) in enumerate(cases):
        assert len(plaintext) % 4 == 0
        iv = struct.pack("!Q", 0xA5A5_0000_0000_0000 + number)
        esp = struct.pack("!LL", spi, sequence)
        sealed = AESGCM(keymat[:-4]).encrypt(keymat[-4:] + iv, plaintext, esp)
        outer = raw(IP(src=REMOTE[4], dst=LOCAL[4], proto=50) / Raw(esp + iv + sealed))
        out.write(f"{outcome} {keymat.hex()} {sequence} {outer.hex()}\n")


for name, make in (("outbound.txt", outbound), ("inbound.txt", inbound)):
    with open(os.path.join(HERE, name), "w", encoding="ascii") as file:
        make(file)
