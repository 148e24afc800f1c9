#!/usr/bin/python3
"""Runs culvert-dataplane with static SAs against a Linux kernel's ESP, case by case.

For each case: echoes both ways, nothing in clear on the wire.  Then its negative twins: frames
of the kernel sent again, and altered; each must be dropped and counted, and the tunnel must
work on.  At the end once: a wrong key, and frames left of the replay window.
"""
import argparse
import fnmatch
import ipaddress
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
import time

# All tunnel cases of the table with AES-GCM and a 16-byte ICV but those with AES-192, which is
# not built: the configuration refuses aes192gcm16.
BUILT = r"aes(128|256)gcm16[^/]*/tunnel.*"
GUEST = f"cvk{os.getpid()}"
DUT, WIRE = f"{GUEST}-dut", f"{GUEST}-wire"
INNER = {"4": ("10.91.0.1", "10.92.0.1"), "6": ("fd91::1", "fd92::1")}
OUTER = {"4": ("10.90.0.1", "10.90.0.2"), "6": ("fd90::1", "fd90::2")}
NETS = {"4": ("10.91.0.0/24", "10.92.0.0/24"), "6": ("fd91::/64", "fd92::/64")}
ECHOES = 5
COPIES = 20
DEVICE = "net_af_packet0,iface=d0,blocksz=65536,framesz=2048,framecnt=2048,qdisc_bypass=1"
ETHERNET, UDP, SPI = 14, 8, 4
SEND = """
import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(("p0", 0))
for line in sys.stdin:
    s.send(bytes.fromhex(line))
"""


def run(*command, check=True, **options):
    try:
        return subprocess.run(command, check=check, text=True, capture_output=True, **options)
    except subprocess.CalledProcessError as e:
        sys.exit(f"kernel-peer: {' '.join(command)}: {e.stderr.strip() or e.stdout.strip()}")


def in_ns(ns, *command, **options):
    return run("ip", "netns", "exec", ns, *command, **options)


class Bench:
    def __init__(self, harness, binaries):
        self.harness, self.bin = harness, binaries
        self.dir = tempfile.mkdtemp(prefix="culvert-kernel-peer.")
        self.dataplane = None

    def peer(self, *arguments, check=True):
        return run(os.path.join(self.harness, "guest-peer.sh"), *arguments, check=check)

    def guest(self, command, check=True):
        return self.peer("exec", GUEST, command, check=check).stdout

    def transforms(self, *arguments):
        return run(os.path.join(self.harness, "transforms.py"), *arguments).stdout

    def up(self):
        for ns in (WIRE, DUT):
            run("ip", "netns", "add", ns)
            run("ip", "-n", ns, "link", "set", "lo", "up")
        for name in ("all", "default"):
            in_ns(DUT, "sysctl", "-qw", f"net.ipv6.conf.{name}.accept_dad=0")
        for command in (
            f"-n {WIRE} link add p0 type veth peer name d0 netns {DUT}",
            f"-n {WIRE} link add name mid type bridge stp_state 0 mcast_snooping 0",
            f"-n {WIRE} link set p0 master mid up",
            f"-n {WIRE} link set mid up",
            f"-n {DUT} address add 10.90.0.2/24 dev d0",
            f"-n {DUT} address add fd90::2/64 dev d0 nodad",
            f"-n {DUT} link set d0 up",
            # What the gateway protects: its own addresses on a device that is no port.
            f"-n {DUT} link add inner0 type bridge",
            f"-n {DUT} link set inner0 up",
            f"-n {DUT} address add 10.92.0.1/24 dev inner0",
            f"-n {DUT} address add fd92::1/64 dev inner0 nodad",
            f"-n {DUT} route add 10.91.0.0/24 via 10.90.0.1 dev d0",
            f"-n {DUT} route add fd91::/64 via fd90::1 dev d0",
        ):
            run("ip", *command.split())
        self.peer("start", GUEST, "--netns", WIRE, "--bridge", "mid",
                  "--addr", "10.90.0.1/24,fd90::1/64", "--inner", "10.91.0.1/24,fd91::1/64",
                  "--route", "10.92.0.0/24@10.90.0.2,fd92::/64@fd90::2")
        # The guest decapsulates ESP in UDP only where a socket with UDP_ENCAP exists; the one
        # of IPv6 must leave IPv4's port alone.
        for listen in ("UDP4-RECV:4500", "UDP6-RECV:4500,ipv6only=1"):
            self.guest(f"socat -u {listen},setsockopt-listen=17:100:x02000000 /dev/null "
                       "< /dev/null > /dev/null 2>&1 &")

    def down(self):
        self.stop()
        self.peer("stop", GUEST, check=False)
        for ns in (DUT, WIRE):
            run("ip", "netns", "del", ns, check=False)
        run("rm", "-rf", self.dir)

    def config(self, case, wrong_key=False):
        """culvert is the right side: what goes left to right comes in."""
        left, right = OUTER[case["outer_family"]]
        lnet, rnet = NETS[case["inner_family"]]
        start = case["last_sequence_number"]
        inbound, outbound = case["left_to_right"], case["right_to_left"]
        key_in = inbound["enc_key"]
        if wrong_key:
            key_in = format(int(key_in[:2], 16) ^ 1, "02x") + key_in[2:]
        proposal = re.match(r"aes\d+gcm16", case["swanctl"])[0] + ("-esn" if case["esn"] else "")
        return f"""
[dataplane]
run_dir = "{self.dir}"
workers = 1
memory_mib = 64
max_sas = 1024
allow_static_keys = true

[[dataplane.ports]]
name = "out"
device = "{DEVICE}"
side = "outside"

[[dataplane.static_sas]]
name = "kernel"
local = "{right}"
remote = "{left}"
udp_encapsulation = {json.dumps(case["udp_encapsulation"])}
esp_proposal = "{proposal}"
replay_window = {case["window"]}
local_ts = "{rnet}"
remote_ts = "{lnet}"
inbound = {{ spi = {inbound['spi']}, key = "0x{key_in}", sequence = {start} }}
outbound = {{ spi = {outbound['spi']}, key = "0x{outbound['enc_key']}", sequence = {start} }}
"""

    def start(self, text):
        path = os.path.join(self.dir, "culvert.toml")
        with open(path, "w") as f:
            f.write(text)
        os.chmod(path, 0o600)
        # Every case uses the same keys with the numbers it wants: what protects an operator
        # from that must forget the case before.
        for name in os.listdir(self.dir):
            if name.startswith("static-sequences"):
                os.remove(os.path.join(self.dir, name))
        with open(os.path.join(self.dir, "log"), "a") as log:
            self.dataplane = subprocess.Popen(
                ["ip", "netns", "exec", DUT, f"{self.bin}/culvert-dataplane", "-c", path],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        for _ in range(200):
            if self.dataplane.poll() is not None:
                with open(log.name) as f:
                    sys.exit("kernel-peer: culvert-dataplane ended:\n" + f.read()[-2000:])
            if self.counters() is not None:
                return
            time.sleep(0.05)
        sys.exit("kernel-peer: culvert-dataplane does not answer")

    def stop(self):
        if self.dataplane:
            self.dataplane.terminate()
            try:
                self.dataplane.wait(5)
            except subprocess.TimeoutExpired:
                self.dataplane.kill()
                self.dataplane.wait()
            self.dataplane = None

    def counters(self):
        answer = run(f"{self.bin}/culvert", "--run-dir", self.dir, "--json", "counters",
                     check=False)
        return json.loads(answer.stdout)["counters"] if answer.returncode == 0 else None

    def drops(self):
        """Packets by reason, of reasons that had any."""
        return {c["name"]: c["value"] for c in self.counters() if c["drop"] and c["value"]}

    def kernel(self, name):
        commands = self.transforms("commands", name, "--side", "left", "--batch")
        self.guest(f"ip -batch - << END\nxfrm policy flush\nxfrm state flush\n{commands}END\n")

    def capture(self, pcap):
        process = subprocess.Popen(
            ["ip", "netns", "exec", WIRE, "tcpdump", "-Z", "root", "--immediate-mode", "-n", "-U",
             "-s", "0", "-i", "mid", "-w", pcap],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        process.stderr.readline()
        return process

    def guest_pings(self, family, count=ECHOES):
        left, right = INNER[family]
        return received(self.guest(
            f"ping -q -n -c {count} -i 0.02 -W 1 -I {left} {right} 2>&1", check=False))

    def dut_pings(self, family, count=ECHOES):
        left, right = INNER[family]
        return received(in_ns(DUT, "ping", "-q", "-n", "-c", str(count), "-i", "0.02", "-W", "1",
                              "-I", right, left, check=False).stdout)

    def send(self, frames):
        """Puts frames on the wire towards culvert; how often each reason grew by that."""
        before = self.drops()
        in_ns(WIRE, "/usr/bin/python3", "-c", SEND, input="\n".join(f.hex() for f in frames))
        grown = {}
        for _ in range(40):
            grown = {k: v - before.get(k, 0) for k, v in self.drops().items()}
            if sum(grown.values()) >= len(frames):
                break
            time.sleep(0.05)
        return {k: v for k, v in grown.items() if v}


def received(text):
    found = re.search(r"(\d+) (?:packets )?received", text)
    return int(found[1]) if found else 0


def end(capture):
    time.sleep(0.1)
    capture.terminate()
    capture.wait()


def clear_frames(pcap):
    nets = " or ".join(f"net {n}" for pair in NETS.values() for n in pair)
    text = run("tcpdump", "-n", "-r", pcap, f"({nets}) and not arp").stdout
    return len(text.splitlines())


def frames_of(pcap):
    """The frames of a capture file of this machine, in order."""
    with open(pcap, "rb") as f:
        data = f.read()
    at, frames = 24, []
    while at + 16 <= len(data):
        length = struct.unpack_from("=I", data, at + 8)[0]
        frames.append(data[at + 16:at + 16 + length])
        at += 16 + length
    return frames


def esp_of(case, frame, sender):
    """Where the ESP header of `sender` starts in the frame, None if there is none of it."""
    source = ipaddress.ip_address(OUTER[case["outer_family"]][sender]).packed
    v4 = len(source) == 4
    ether, protocol_at, source_at, payload = (
        (b"\x08\x00", 9, 12, 20) if v4 else (b"\x86\xdd", 6, 8, 40))
    ip = frame[ETHERNET:]
    if frame[12:14] != ether or ip[source_at:source_at + len(source)] != source:
        return None
    if not case["udp_encapsulation"]:
        return ETHERNET + payload if ip[protocol_at] == 50 else None
    at_4500 = ip[protocol_at] == 17 and ip[payload + 2:payload + 4] == struct.pack("!H", 4500)
    return ETHERNET + payload + UDP if at_4500 else None


def esp_frames(case, pcap, sender=0):
    return [f for f in frames_of(pcap) if esp_of(case, f, sender)]


def altered(case, frame):
    """A sequence number not seen yet, and two words of ciphertext exchanged.

    Its halves are exchanged too, so that a UDP checksum stays right and it is the ICV that
    has to find out.
    """
    raw = bytearray(frame)
    sequence = esp_of(case, frame, 0) + SPI
    raw[sequence:sequence + 4] = raw[sequence + 2:sequence + 4] + raw[sequence:sequence + 2]
    text = sequence + 4 + 8
    raw[text:text + 4] = raw[text + 2:text + 4] + raw[text:text + 2]
    return bytes(raw)


def one(bench, name):
    case = json.loads(bench.transforms("show", name))
    family = case["inner_family"]
    bench.kernel(name)
    bench.start(bench.config(case))
    pcap = os.path.join(bench.dir, "wire.pcap")
    capture = bench.capture(pcap)
    bench.dut_pings(family, 1)  # neighbours are learned; the first echo may be lost to that
    ways = {"kernel to culvert": bench.guest_pings(family),
            "culvert to kernel": bench.dut_pings(family)}
    end(capture)
    faults = [f"{way}: {got} of {ECHOES}" for way, got in ways.items() if got != ECHOES]
    if clear := clear_frames(pcap):
        faults.append(f"{clear} frames in clear")
    sent = [esp_frames(case, pcap, sender) for sender in (0, 1)]
    if min(map(len, sent)) < 2 * ECHOES:
        faults.append(f"frames of ESP seen: {[len(s) for s in sent]}")
    if faults:
        faults.append(json.dumps(bench.drops()))
    else:
        faults = twins(bench, case, sent[0][-1])
    bench.stop()
    return faults


def twins(bench, case, frame):
    """The frame sent again, and altered: dropped for the reason, and the tunnel works on."""
    faults = []
    for what, reason, bad in (("replayed", "replayed", frame),
                              ("altered", "auth_failed", altered(case, frame))):
        grown = bench.send([bad] * COPIES)
        if grown.get(reason, 0) != COPIES:
            faults.append(f"{what} {COPIES} times: {grown}")
    # Only an authentic packet moves the window (RFC 4303 section 3.4.3).
    got = bench.guest_pings(case["inner_family"], 2)
    if got != 2:
        faults.append(f"after those: {got} of 2 echoes: {bench.drops()}")
    return faults


def wrong_key(bench, name="aes128gcm16/tunnel4"):
    case = json.loads(bench.transforms("show", name))
    bench.kernel(name)
    bench.start(bench.config(case, wrong_key=True))
    got, drops = bench.guest_pings("4"), bench.drops()
    bench.stop()
    if got or drops.get("auth_failed", 0) != ECHOES:
        return [f"{got} echoes answered, drops {drops}"]
    return []


def late(bench, name="aes128gcm16/tunnel4"):
    """The first frame, which is left of the window after many more, and the last one."""
    case = json.loads(bench.transforms("show", name))
    bench.kernel(name)
    bench.start(bench.config(case))
    pcap = os.path.join(bench.dir, "wire.pcap")
    capture = bench.capture(pcap)
    bench.dut_pings("4", 1)
    bench.guest_pings("4", 3 * max(case["window"], 64))
    end(capture)
    frames = esp_frames(case, pcap)
    grown = bench.send([frames[0], frames[-1]] * COPIES) if frames else {}
    bench.stop()
    if grown != {"late": COPIES, "replayed": COPIES}:
        return [f"drops {grown}"]
    return []


def report(name, good, faults):
    print(f"{name:40} {'FAIL ' + '; '.join(faults) if faults else good}", flush=True)
    return bool(faults)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--harness", required=True)
    p.add_argument("--bin", required=True)
    p.add_argument("pattern", nargs="?", default="*")
    a = p.parse_args()
    bench = Bench(a.harness, a.bin)
    built = [n for n in bench.transforms("list").split() if re.fullmatch(BUILT, n)]
    names = fnmatch.filter(built, a.pattern)
    if not names:
        sys.exit(f"kernel-peer: none of the {len(built)} cases matches {a.pattern}")
    good = f"ok {ECHOES}/{ECHOES} {ECHOES}/{ECHOES}, replayed and altered dropped"
    failed, start = 0, time.time()
    try:
        bench.up()
        for name in names:
            failed += report(name, good, one(bench, name))
        failed += report("wrong key", "ok dropped", wrong_key(bench))
        failed += report("left of the window", "ok dropped", late(bench))
    finally:
        if failed:
            with open(os.path.join(bench.dir, "log")) as log:
                print("kernel-peer: the end of the log:", log.read()[-4000:], sep="\n")
        bench.down()
    print(f"kernel-peer: {len(names) + 2} cases, {failed} failed, {time.time() - start:.0f} s")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
