#!/bin/bash
# culvert as a device under test: runs the two real processes in the current network
# namespace, with the configuration of a case, until SIGTERM.  From the environment:
#   DUT_CONF      swanctl.conf of the case
#   DUT_ROLE      initiator or responder
#   DUT_CHILDREN  what to initiate ("-": the IKE SA alone)
#   DUT_READY     a file to make when requests can be answered
#   PEER_INFO     lines key=value; of these dut_dev and dut_daemon are used
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
BIN=${BIN:-$here/../../../target/release}
dir=$DUT_DIR/culvert
mkdir -p "$dir/state"
chmod 700 "$dir" "$dir/state"
device=$(sed -n 's/^dut_dev=//p' "$PEER_INFO")

# daemon_settings: what the case sets globally, `name = value` in strongswan.conf's words.
daemon_settings() {
    sed -n 's/^dut_daemon=[ \t]*\([a-z0-9_]*\)[ \t]*=[ \t]*\(.*\)$/\1 \2/p' "$PEER_INFO" | while read -r key value; do
        echo "$key = \"$value\""
    done
}

{
    cat << TOML
[dataplane]
run_dir = "$dir"
workers = [$(($$ % $(nproc)))]
memory_mib = 64
max_sas = 4096

[[dataplane.ports]]
name = "out"
device = "net_af_packet0,iface=$device,blocksz=65536,framesz=2048,framecnt=2048,qdisc_bypass=1"
side = "outside"

[ike]
state_dir = "$dir/state"
$(daemon_settings)
TOML
    "$here/swanctl2toml.py" "$DUT_CONF"
} > "$dir/culvert.toml"
chmod 600 "$dir/culvert.toml"

culvert() { "$BIN/culvert" --run-dir "$dir" "$@"; }
wait_for() {
    local i
    for i in $(seq 1 200); do
        "$@" > /dev/null 2>&1 && return 0
        sleep 0.05
    done
    echo "dut.sh: gave up waiting for: $*" >&2
    return 1
}

# The harness gives three seconds: culvert-ike has one of them to tell its peers.
dataplane= ike=
finish() {
    local i
    [ -z "$ike" ] || kill "$ike" 2> /dev/null || true
    for i in $(seq 10); do
        kill -0 "$ike" 2> /dev/null || break
        sleep 0.1
    done
    [ -z "$ike" ] || kill -9 "$ike" 2> /dev/null || true
    [ -z "$dataplane" ] || kill "$dataplane" 2> /dev/null || true
    wait
}
trap finish EXIT
trap 'exit 0' TERM INT

"$BIN/culvert-dataplane" -c "$dir/culvert.toml" &
dataplane=$!
wait_for culvert ports
"$BIN/culvert-ike" -c "$dir/culvert.toml" &
ike=$!
wait_for culvert status
touch "$DUT_READY"

if [ "$DUT_ROLE" = initiator ]; then
    for child in $DUT_CHILDREN; do
        if [ "$child" = - ]; then
            culvert initiate --ike conn --timeout 20 || true
        else
            culvert initiate --child "$child" --timeout 20 || true
        fi
    done
fi
# SIGTERM may reach only the shell that started this one: the end of the case's directory counts too.
while [ -e "$PEER_INFO" ] && kill -0 "$ike" 2> /dev/null; do
    sleep 0.2
done
