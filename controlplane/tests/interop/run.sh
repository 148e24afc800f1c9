#!/bin/bash
# culvert against strongSwan, as initiator and as responder.
#   run.sh            every case of the table
#   run.sh --quick    five cases a role
#   run.sh CASE...    these
# The harness is not part of this project: CULVERT_PEERS says where it is
# (../shared/peers beside the project). Where it is not there nothing runs.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../../.." && pwd)
peers=${CULVERT_PEERS:-$top/../shared/peers}
if [ ! -x "$peers/selftest.sh" ]; then
    echo "interop: SKIPPED, there is no peer harness (CULVERT_PEERS, looked in $peers)"
    exit 0
fi
if [ "${1:-}" = --quick ]; then
    cases=(v2-psk-gcm v2-psk-modp3072 v2-ipv6 v2-rekey-child v2-neg-psk)
elif [ $# -gt 0 ]; then
    cases=("$@")
else
    mapfile -t cases < <(grep -v '^#' "$peers/first-light.txt")
fi

"$peers/setup.sh"
(cd "$top" && cargo build --release --quiet -p culvert-dataplane -p culvert-controlplane)
export BIN=$top/target/release
status=0
for role in initiator responder; do
    # strongSwan plays the other role.
    other=responder
    [ "$role" = initiator ] || other=initiator
    echo "interop: culvert is the $role"
    "$peers/selftest.sh" ${JOBS:+-j "$JOBS"} ${LOGS:+-o "$LOGS/$role"} -m "$other" -d "$here/dut.sh" "${cases[@]}" || status=1
done
exit "$status"
