#!/bin/bash
# Two sites on one machine, for the demo and the end-to-end tests:
#
#   host a ------- gateway a ------- wire ------- gateway b ------- host b
#   10.1.0.10      10.1.0.1                        10.2.0.1         10.2.0.10
#   fd00:1::10     192.0.2.1  2001:db8::1          192.0.2.2        fd00:2::10
#
# Each box is a network namespace NAME-ha, NAME-ga, NAME-wire, NAME-gb, NAME-hb; the
# gateways' devices are `lan` and `wan`; `wire` bridges the two, so that a capture there
# sees what a stranger would see.
#
# Usage: lab.sh up NAME DIR          make namespaces and configuration files in DIR
#        lab.sh start NAME DIR WHAT  WHAT: dataplane-a, ike-a, dataplane-b, ike-b or all
#        lab.sh kill NAME DIR WHAT   SIGKILL to one process (or all)
#        lab.sh down NAME DIR        end the processes, remove the namespaces
#        lab.sh cli NAME DIR a|b ... the command culvert of a gateway
# BIN is where the binaries are (target/release). CHILD_EXTRA, CONN_EXTRA, IKE_EXTRA and
# DATAPLANE_EXTRA add lines to the configuration of both sides.
set -euo pipefail

top=$(cd "$(dirname "$0")/.." && pwd)
BIN=${BIN:-$top/target/release}
action=${1:-} name=${2:-} dir=${3:-}
if [ -z "$action" ] || [ -z "$name" ] || [ -z "$dir" ]; then
    sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p}' "$0" >&2
    exit 2
fi
shift 3

die() { echo "lab.sh: $*" >&2; exit 1; }
other() { if [ "$1" = a ]; then echo b; else echo a; fi; }
number() { if [ "$1" = a ]; then echo 1; else echo 2; fi; }

make_ns() {
    ip netns add "$1" 2> /dev/null || die "cannot make the namespace $1: not root, or left over (remove it with: ip netns del $1)"
    ip -n "$1" link set lo up
    ip netns exec "$1" sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 \
        net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0
}

# link NS DEVICE NS DEVICE: a cable. Software ports need whole packets with checksums.
link() {
    ip link add "$2" netns "$1" type veth peer name "$4" netns "$3"
    ip -n "$1" link set "$2" up
    ip -n "$3" link set "$4" up
    for end in "$1 $2" "$3 $4"; do
        ip netns exec "${end% *}" ethtool -K "${end#* }" tx off tso off gso off gro off > /dev/null 2>&1 || true
    done
}

site() { # site a|b
    local s=$1 n
    n=$(number "$s")
    make_ns "$name-h$s"
    make_ns "$name-g$s"
    link "$name-h$s" eth0 "$name-g$s" lan
    link "$name-g$s" wan "$name-wire" "to-$s"
    ip -n "$name-wire" link set "to-$s" master mid
    ip -n "$name-h$s" address add "10.$n.0.10/24" dev eth0
    ip -n "$name-h$s" address add "fd00:$n::10/64" dev eth0 nodad
    ip -n "$name-h$s" route add default via "10.$n.0.1"
    ip -n "$name-h$s" route add default via "fd00:$n::1"
    ip -n "$name-g$s" address add "10.$n.0.1/24" dev lan
    ip -n "$name-g$s" address add "fd00:$n::1/64" dev lan nodad
    ip -n "$name-g$s" address add "192.0.2.$n/24" dev wan
    ip -n "$name-g$s" address add "2001:db8::$n/64" dev wan nodad
    # Without a tunnel the kernel would know the way: what must not happen in clear could happen.
    ip -n "$name-g$s" route add "10.$((3 - n)).0.0/24" via "192.0.2.$((3 - n))"
    ip -n "$name-g$s" route add "fd00:$((3 - n))::/64" via "2001:db8::$((3 - n))"
}

config() { # config a|b
    local s=$1 n p core
    n=$(number "$s") p=$((3 - $(number "$s")))
    core=$(((n - 1) % $(nproc)))
    cat << TOML
# Gateway $s of the lab.
[dataplane]
run_dir = "$dir/$s"
workers = [$core]
memory_mib = 64
max_sas = 16384
$(printf '%b' "${DATAPLANE_EXTRA:-}")

[[dataplane.ports]]
name = "lan"
device = "net_af_packet0,iface=lan,blocksz=65536,framesz=2048,framecnt=4096,qdisc_bypass=1"
side = "inside"

[[dataplane.ports]]
name = "wan"
device = "net_af_packet1,iface=wan,blocksz=65536,framesz=2048,framecnt=4096,qdisc_bypass=1"
side = "outside"

[ike]
state_dir = "$dir/$s/state"
$(printf '%b' "${IKE_EXTRA:-}")

[connections.site]
local_addrs = "${OUTER:-192.0.2.}$n"
remote_addrs = "${OUTER:-192.0.2.}$p"
$(printf '%b' "${CONN_EXTRA:-}")
local = { auth = "psk", id = "$s.example.org" }
remote = { auth = "psk", id = "$(other "$s").example.org" }

[connections.site.children.net]
local_ts = "10.$n.0.0/24, fd00:$n::/64"
remote_ts = "10.$p.0.0/24, fd00:$p::/64"
$(printf '%b' "${CHILD_EXTRA:-}")

[secrets.ike-1]
id-1 = "a.example.org"
id-2 = "b.example.org"
secret = "what only the two gateways know"
TOML
}

up() {
    mkdir -p "$dir"
    make_ns "$name-wire"
    ip -n "$name-wire" link add name mid type bridge stp_state 0 mcast_snooping 0
    ip -n "$name-wire" link set mid up
    for s in a b; do
        mkdir -p "$dir/$s/state"
        chmod 700 "$dir/$s" "$dir/$s/state"
        site "$s"
        config "$s" > "$dir/$s.toml"
        chmod 600 "$dir/$s.toml"
    done
}

alive() { [ -f "$dir/$1.pid" ] && kill -0 "$(cat "$dir/$1.pid")" 2> /dev/null; }

start_one() { # start_one dataplane-a
    local what=${1%-*} s=${1##*-} log=$dir/$1.log
    # Descriptors other than 0 to 2 must not live on in a daemon.
    ip netns exec "$name-g$s" "$BIN/culvert-$what" -c "$dir/$s.toml" >> "$log" 2>&1 < /dev/null &
    echo $! > "$dir/$1.pid"
    local i
    for i in $(seq 1 300); do
        alive "$1" || die "$1 did not start: $(tail -n 5 "$log")"
        ! answers "$what" "$s" || return 0
        sleep 0.05
    done
    die "$1 does not answer: $(tail -n 5 "$log")"
}

culvert() { local s=$1; shift; ip netns exec "$name-g$s" "$BIN/culvert" --run-dir "$dir/$s" "$@"; }
# The status is that of both processes, and fails while one is away.
answers() { if [ "$1" = dataplane ]; then culvert "$2" ports; else culvert "$2" status; fi > /dev/null 2>&1; }

each() { if [ "$1" = all ]; then echo dataplane-a dataplane-b ike-a ike-b; else echo "$1"; fi; }

down() {
    local what i
    for what in ike-a ike-b dataplane-a dataplane-b; do
        alive "$what" && kill "$(cat "$dir/$what.pid")" 2> /dev/null || true
        for i in $(seq 1 50); do alive "$what" || break; sleep 0.1; done
        alive "$what" && kill -9 "$(cat "$dir/$what.pid")" 2> /dev/null || true
        rm -f "$dir/$what.pid"
    done
    for s in ha ga wire gb hb; do ip netns del "$name-$s" 2> /dev/null || true; done
}

case $action in
    up) up ;;
    start) for what in $(each "$1"); do start_one "$what"; done ;;
    kill) for what in $(each "$1"); do kill -9 "$(cat "$dir/$what.pid")"; rm -f "$dir/$what.pid"; done ;;
    down) down ;;
    cli) culvert "$@" ;;
    *) die "no such action: $action" ;;
esac
