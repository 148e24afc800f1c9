#!/bin/bash
# Installs the Debian packages that culvert is built, run and tested with.
# Does nothing when all is there.
set -euo pipefail

build=(dpdk-dev libdpdk-dev libclang-dev clang pkg-config make gcc libc6-dev)
run=(dpdk nftables iproute2 ethtool kmod)
# ipsec-mb seals the traffic of the benchmarks; the others fetch, unpack and pin for them.
bench=(libipsec-mb-dev dpkg-dev xz-utils util-linux)
test=(tcpdump tshark iputils-ping procps socat python3 python3-scapy python3-cryptography)

missing=()
for package in "${build[@]}" "${run[@]}" "${bench[@]}" "${test[@]}"; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2> /dev/null) || status=
    [ "$status" = installed ] || missing+=("$package")
done
if [ "${#missing[@]}" -gt 0 ]; then
    if [ "$(id -u)" -ne 0 ]; then
        echo "make deps: these packages are missing, and only root can install them: ${missing[*]}" >&2
        exit 1
    fi
    echo "make deps: installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -o DPkg::Lock::Timeout=300 update -qq
    apt-get -o DPkg::Lock::Timeout=300 install -qq -y --no-install-recommends "${missing[@]}" > /dev/null
fi
if ! command -v cargo > /dev/null; then
    echo "make deps: no cargo: install a Rust toolchain (1.89 or later) first, see https://rustup.rs" >&2
    exit 1
fi
