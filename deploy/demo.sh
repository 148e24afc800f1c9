#!/bin/bash
# Two sites in network namespaces, four culvert processes, a tunnel made by IKEv2, traffic
# through it, and a look at what crosses the middle. KEEP=1 leaves it running.
set -euo pipefail

top=$(cd "$(dirname "$0")/.." && pwd)
cd "$top"
lab=deploy/lab.sh
name=culvert-demo
megabytes=${MEGABYTES:-64}
pids=()

step() { echo; echo "== $*"; }
fail() {
    echo "demo: $*" >&2
    if [ -d "${dir:-}" ]; then
        echo "demo: the last lines of the logs:" >&2
        tail -n 8 "$dir"/*.log >&2 2> /dev/null || true
        echo "demo: look at $dir, then remove all with: $lab down $name $dir && rm -rf $dir" >&2
        trap - EXIT
        for pid in "${pids[@]}"; do kill "$pid" 2> /dev/null || true; done
    fi
    exit 1
}
clean() {
    for pid in "${pids[@]}"; do kill "$pid" 2> /dev/null || true; done
    "$lab" down "$name" "$dir"
    rm -rf "$dir"
}

[ "$(id -u)" -eq 0 ] || fail "it needs root, to make network namespaces: sudo make demo"
[ -c /dev/net/tun ] || fail "there is no /dev/net/tun: modprobe tun"
if ip netns list | grep -q "^$name-"; then
    fail "an earlier demo is still running: end it with the command it printed (or ip netns del $name-ha, -ga, -wire, -gb, -hb)"
fi

step "building in release mode (two to six minutes the first time)"
cargo build --release --workspace || fail "the build failed: make deps installs what it needs"

dir=$(mktemp -d)
chmod 755 "$dir"
trap clean EXIT
host() { ip netns exec "$name-h$1" "${@:2}"; }

step "two sites: host a - gateway a - wire - gateway b - host b"
"$lab" up "$name" "$dir" || fail "the namespaces could not be made"
ip netns exec "$name-wire" tcpdump -Z root -n -U -s 128 -i mid -w "$dir/wire.pcap" 2> "$dir/tcpdump.log" &
pids+=($!)

step "starting culvert-dataplane and culvert-ike on both gateways"
"$lab" start "$name" "$dir" all || fail "a process did not start"

step "IKEv2: gateway a initiates"
"$lab" cli "$name" "$dir" a initiate --child net || fail "no tunnel"

step "ping from host a to host b, IPv4 and IPv6"
host a ping -c 3 -i 0.3 10.2.0.10 || fail "no answer through the tunnel"
host a ping -c 3 -i 0.3 fd00:2::10 || fail "no answer through the tunnel (IPv6)"

step "a file of $megabytes MB through the tunnel, and one the other way at the same time"
transfer() { # transfer FROM TO ADDRESS PORT
    head -c "${megabytes}M" /dev/urandom > "$dir/from-$1"
    host "$2" timeout 600 socat -u "TCP-LISTEN:$4,bind=$3" "CREATE:$dir/at-$2" &
    pids+=($!)
    local receiver=$!
    sleep 0.5
    host "$1" timeout 600 socat -u "OPEN:$dir/from-$1" "TCP:$3:$4" || return 1
    wait "$receiver" || return 1
    cmp "$dir/from-$1" "$dir/at-$2"
    sha256sum "$dir/from-$1" "$dir/at-$2" | sed "s|$dir/||"
}
transfer a b 10.2.0.10 7001 > "$dir/transfer-a.log" 2>&1 &
first=$!
transfer b a 10.1.0.10 7002 > "$dir/transfer-b.log" 2>&1 || fail "the file from b to a did not arrive intact"
wait "$first" || fail "the file from a to b did not arrive intact"
cat "$dir/transfer-a.log" "$dir/transfer-b.log"

step "culvert sas, on gateway a"
"$lab" cli "$name" "$dir" a sas

step "what crossed the wire (tcpdump in the middle)"
sleep 1
seen() { tcpdump -n -r "$dir/wire.pcap" "$@" 2> /dev/null; }
seen -c 12 'esp or arp or udp port 500 or udp port 4500' || true
# What a link says of itself (ARP, neighbour discovery, multicast listeners) belongs on the wire.
ours='arp or esp or udp port 500 or udp port 4500 or icmp6 or (ip6 and dst net ff02::/16)'
clear=$(seen "not ($ours)" | wc -l)
inner=$(seen 'not arp and (net 10.1.0.0/24 or net 10.2.0.0/24 or net fd00:1::/64 or net fd00:2::/64)' | wc -l)
esp=$(seen 'esp or udp port 4500' | wc -l)
echo "$esp frames of ESP, $((clear + inner)) frames in clear"
[ "$((clear + inner))" -eq 0 ] || fail "something crossed the wire in clear: tcpdump -r $dir/wire.pcap"
[ "$esp" -gt 0 ] || fail "no ESP was seen"

if [ "${KEEP:-0}" = 1 ]; then
    trap - EXIT
    for pid in "${pids[@]}"; do kill "$pid" 2> /dev/null || true; done
    step "left running; look around:"
    cat << TEXT
  $lab cli $name $dir a sas                      (status, policies, counters, ports, rekey --child net ...)
  ip netns exec $name-ha ping 10.2.0.10          a host behind gateway a
  ip netns exec $name-wire tcpdump -n -i mid     what a stranger sees
  less $dir/ike-a.log; less $dir/a.toml          log and configuration of gateway a
stop it with:
  $lab down $name $dir && rm -rf $dir
TEXT
else
    step "done: the tunnel carried all of it, the wire saw only ESP (KEEP=1 leaves it running)"
fi
