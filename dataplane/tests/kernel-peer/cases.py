#!/usr/bin/python3
"""Runs culvert-dataplane with static SAs against a Linux kernel's ESP, case by case.

For each case: echoes both ways, nothing in clear on the wire.  Then the negative twins: a
wrong key, a replayed frame, an altered frame; each must be dropped and counted.
"""
import argparse
import fnmatch
import json
import os
import re
import subprocess
import sys
import tempfile
import time

# AES-192 is not built; the rest of the table's tunnel cases with AES-GCM and a 16-byte ICV.
DEFAULT = r"aes(128|256)gcm16[^/]*/tunnel.*"
GUEST = f"cvk{os.getpid()}"
DUT, WIRE = f"{GUEST}-dut", f"{GUEST}-wire"
INNER = {"4": ("10.91.0.1", "10.92.0.1"), "6": ("fd91::1", "fd92::1")}
OUTER = {"4": ("10.90.0.1", "10.90.0.2"), "6": ("fd90::1", "fd90::2")}
NETS = {"4": ("10.91.0.0/24", "10.92.0.0/24"), "6": ("fd91::/64", "fd92::/64")}
PROBE_MAC = "02:00:00:00:77:77"


def run(*command, check=True, **options):
    return subprocess.run(command, check=check, text=True, capture_output=True, **options)


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
        run("ip", "link", "add", "d0", "netns", DUT, "type", "veth", "peer", "name", "p0", "netns", WIRE)
        run("ip", "-n", WIRE, "link", "add", "name", "mid", "type", "bridge", "stp_state", "0", "mcast_snooping", "0")
        run("ip", "-n", WIRE, "link", "set", "p0", "master", "mid", "up")
        run("ip", "-n", WIRE, "link", "set", "mid", "up")
        in_ns(DUT, "ethtool", "-K", "d0", "tx", "off", check=False)
        run("ip", "-n", DUT, "address", "add", "10.90.0.2/24", "dev", "d0")
        run("ip", "-n", DUT, "address", "add", "fd90::2/64", "dev", "d0", "nodad")
        run("ip", "-n", DUT, "link", "set", "d0", "up")
        # What the gateway protects: its own addresses on a device that is no port.
        run("ip", "-n", DUT, "link", "add", "inner0", "type", "bridge")
        run("ip", "-n", DUT, "link", "set", "inner0", "up")
        run("ip", "-n", DUT, "address", "add", "10.92.0.1/24", "dev", "inner0")
        run("ip", "-n", DUT, "address", "add", "fd92::1/64", "dev", "inner0", "nodad")
        run("ip", "-n", DUT, "route", "add", "10.91.0.0/24", "via", "10.90.0.1", "dev", "d0")
        run("ip", "-n", DUT, "route", "add", "fd91::/64", "via", "fd90::1", "dev", "d0")
        self.peer("start", GUEST, "--netns", WIRE, "--bridge", "mid", "--addr", "10.90.0.1/24,fd90::1/64",
                  "--inner", "10.91.0.1/24,fd91::1/64", "--route", "10.92.0.0/24@10.90.0.2,fd92::/64@fd90::2")
        # The guest decapsulates ESP in UDP only where a socket of that kind exists.
        self.guest("for f in 4 6; do socat -u UDP$f-RECV:4500,setsockopt-listen=17:100:x02000000 /dev/null "
                   "< /dev/null > /dev/null 2>&1 & done; sleep 0.3", check=False)

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
        udp = "udp_encapsulation = true\nlocal_port = 4500\nremote_port = 4500\n" if case["udp_encapsulation"] else ""
        proposal = re.match(r"aes\d+gcm16", case["swanctl"])[0] + ("-esn" if case["esn"] else "")
        return f"""
[dataplane]
run_dir = "{self.dir}"
workers = [1]
memory_mib = 64
max_sas = 1024
allow_static_keys = true

[[dataplane.ports]]
name = "out"
device = "net_af_packet0,iface=d0,blocksz=65536,framesz=2048,framecnt=2048,qdisc_bypass=1"
side = "outside"

[[dataplane.static_sas]]
name = "kernel"
local = "{right}"
remote = "{left}"
{udp}esp_proposal = "{proposal}"
replay_window = {max(case["window"], 64)}
local_ts = "{rnet}"
remote_ts = "{lnet}"
inbound = {{ spi = "{inbound['spi']}", key = "0x{key_in}", sequence = {start} }}
outbound = {{ spi = "{outbound['spi']}", key = "0x{outbound['enc_key']}", sequence = {start} }}
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
        log = open(os.path.join(self.dir, "log"), "a")
        self.dataplane = subprocess.Popen(
            ["ip", "netns", "exec", DUT, os.path.join(self.bin, "culvert-dataplane"), "-c", path],
            stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        for _ in range(200):
            if self.dataplane.poll() is not None:
                sys.exit("kernel-peer: culvert-dataplane ended:\n" + open(log.name).read()[-2000:])
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
            self.dataplane = None

    def counters(self):
        answer = in_ns(DUT, os.path.join(self.bin, "culvert"), "--run-dir", self.dir, "--json", "counters", check=False)
        return json.loads(answer.stdout) if answer.returncode == 0 else None

    def drops(self):
        return {c["name"]: c["value"] for c in self.counters()["counters"] if c["drop"]}

    def kernel(self, name):
        commands = self.transforms("commands", name, "--side", "left").strip().replace("\n", "; ")
        self.guest(f"ip xfrm policy flush; ip xfrm state flush; {commands}")

    def capture(self, seconds_file):
        process = subprocess.Popen(
            ["ip", "netns", "exec", WIRE, "tcpdump", "-Z", "root", "-n", "-U", "-s", "0", "-i", "mid", "-w", seconds_file],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        process.stderr.readline()
        return process

    def guest_pings(self, family, count=5):
        left, right = INNER[family]
        text = self.guest(f"ping -c {count} -i 0.2 -W 1 -I {left} {right} 2>&1 | tail -3", check=False)
        return received(text)

    def dut_pings(self, family, count=5):
        left, right = INNER[family]
        return received(in_ns(DUT, "ping", "-c", str(count), "-i", "0.2", "-W", "1", "-I", right, left, check=False).stdout)


def received(text):
    found = re.search(r"(\d+) (?:packets )?received", text)
    return int(found[1]) if found else 0


def clear_frames(pcap):
    nets = " or ".join(f"net {n}" for pair in NETS.values() for n in pair)
    text = run("tcpdump", "-n", "-r", pcap, f"({nets}) and not arp", check=False).stdout
    return len(text.splitlines())


def one(bench, name):
    case = json.loads(bench.transforms("show", name))
    bench.kernel(name)
    bench.start(bench.config(case))
    pcap = os.path.join(bench.dir, "wire.pcap")
    capture = bench.capture(pcap)
    family = case["inner_family"]
    bench.dut_pings(family, 1)  # neighbours are learned; the first echo may be lost to that
    faults = []
    for way, got in (("kernel to culvert", bench.guest_pings(family)), ("culvert to kernel", bench.dut_pings(family))):
        if got != 5:
            faults.append(f"{way}: {got} of 5")
    time.sleep(0.1)
    capture.terminate()
    capture.wait()
    if clear := clear_frames(pcap):
        faults.append(f"{clear} frames in clear")
    if faults:
        faults.append(json.dumps({k: v for k, v in bench.drops().items() if v}))
    bench.stop()
    return faults, pcap


def replay(bench, pcap, change=None):
    """Sends a captured ESP frame of the guest again, altered if asked; 20 times."""
    script = f"""
from scapy.all import rdpcap, sendp, Raw
from scapy.layers.ipsec import ESP
frame = next(f for f in rdpcap({pcap!r}) if ESP in f and f['IP'].src == '10.90.0.1')
raw = bytearray(bytes(frame))
{change or ''}
sendp([Raw(bytes(raw))] * 20, iface='p0', verbose=False)
"""
    in_ns(WIRE, "/usr/bin/python3", "-c", script)
    time.sleep(0.3)


def negative(bench):
    """Wrong key, replayed, altered: dropped, and counted under their reasons."""
    name = "aes128gcm16/tunnel4"
    case = json.loads(bench.transforms("show", name))
    faults = []
    bench.kernel(name)
    bench.start(bench.config(case, wrong_key=True))
    if got := bench.guest_pings("4"):
        faults.append(f"wrong key: {got} echoes answered")
    if bench.drops().get("auth_failed", 0) < 5:
        faults.append(f"wrong key: not counted: {bench.drops()}")
    bench.stop()

    bench.kernel(name)
    bench.start(bench.config(case))
    pcap = os.path.join(bench.dir, "replay.pcap")
    capture = bench.capture(pcap)
    bench.dut_pings("4", 1)
    bench.guest_pings("4")
    time.sleep(0.1)
    capture.terminate()
    capture.wait()
    before = bench.drops()
    replay(bench, pcap)
    after = bench.drops()
    if after.get("replayed", 0) + after.get("late", 0) - before.get("replayed", 0) - before.get("late", 0) < 20:
        faults.append(f"replayed frames not counted: {before} {after}")
    # A sequence number not seen yet, and one flipped bit of ciphertext.
    replay(bench, pcap, "raw[14 + 20 + 4 + 3] = 99; raw[-20] ^= 1")
    final = bench.drops()
    if final.get("auth_failed", 0) - after.get("auth_failed", 0) < 20:
        faults.append(f"altered frames not counted: {after} {final}")
    bench.stop()
    return faults


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--harness", required=True)
    p.add_argument("--bin", required=True)
    p.add_argument("pattern", nargs="?")
    a = p.parse_args()
    bench = Bench(a.harness, a.bin)
    names = bench.transforms("list").split()
    if a.pattern:
        names = [n for n in names if fnmatch.fnmatch(n, a.pattern)]
    else:
        names = [n for n in names if re.fullmatch(DEFAULT, n)]
    if not names:
        sys.exit(f"kernel-peer: no case matches {a.pattern}")
    failed, start = 0, time.time()
    try:
        bench.up()
        for name in names:
            faults, _ = one(bench, name)
            failed += bool(faults)
            print(f"{name:40} {'FAIL ' + '; '.join(faults) if faults else 'ok 5/5 5/5'}", flush=True)
        faults = negative(bench)
        failed += bool(faults)
        print(f"{'wrong key, replayed, altered':40} {'FAIL ' + '; '.join(faults) if faults else 'ok'}", flush=True)
    finally:
        if failed:
            run("cp", os.path.join(bench.dir, "log"), "/tmp/culvert-kernel-peer.log", check=False)
        bench.down()
    print(f"kernel-peer: {len(names) + 1} cases, {failed} failed, {time.time() - start:.0f} s")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
