#!/bin/bash
# Native ESP between culvert's static SAs and a real Linux kernel in an emulated machine.
#   run.sh [PATTERN]    of the tunnel cases of transforms.py with AES-128-GCM or AES-256-GCM
#                       and a 16-byte ICV those whose name matches (default: all)
# The harness is not part of this project: CULVERT_KERNEL_PEER says where it is
# (../shared/kernel-peer beside the project). Where it is not there nothing runs.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../../.." && pwd)
harness=${CULVERT_KERNEL_PEER:-$top/../shared/kernel-peer}
if [ ! -x "$harness/guest-peer.sh" ]; then
    echo "kernel-peer: SKIPPED, there is no harness (CULVERT_KERNEL_PEER, looked in $harness)"
    exit 0
fi
packages=(qemu-system-x86 kmod cpio xz-utils openssl)
missing=()
for package in "${packages[@]}"; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2> /dev/null) || status=
    [ "$status" = installed ] || missing+=("$package")
done
if [ "${#missing[@]}" -gt 0 ]; then
    echo "kernel-peer: installing ${missing[*]}"
    apt-get update -qq
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -qq -y --no-install-recommends "${missing[@]}" > /dev/null
fi
(cd "$top" && cargo build --release --quiet -p culvert-dataplane -p culvert-controlplane)
exec /usr/bin/python3 "$here/cases.py" --harness "$harness" --bin "$top/target/release" "$@"
