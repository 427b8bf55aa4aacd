#!/usr/bin/env bash
# A real Tap of a network with a real PDS and PLC, through atkafka into a real Kafka: nothing is lost, whoever is killed.
set -euo pipefail

case ${1:-} in
  '') ;;
  -h | --help)
    cat <<'USAGE'
usage: scripts/tap-check.sh   (takes about four minutes, the first time ten more)

environment: TAP_CHECK_ACCOUNTS (300), TAP_CHECK_SECONDS of traffic (60), TAP_CHECK_RATE commits a second (40)
needs: what scripts/deps.sh test does; node and npm (better-sqlite3 is compiled where its binary cannot be fetched,
which takes python3, make and g++); go 1.26 or newer
USAGE
    exit 0
    ;;
  *) echo 'usage: scripts/tap-check.sh' >&2; exit 2 ;;
esac

cd "$(dirname "${BASH_SOURCE[0]}")/.."
mkdir -p target/check
# shellcheck source=scripts/check/setup.sh
. scripts/check/setup.sh
scripts/deps.sh test
network_packages
real_tap
scripts/build.sh

trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
begin tap 29392

# Tap resolves handles at https://HANDLE/.well-known/atproto-did: the check answers there, by this certificate.
logged openssl openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=atkafka-check -addext 'subjectAltName = DNS:*.test' \
  -keyout "$out/handles.key" -out "$out/handles.pem"
run tap.mjs "$out" "$port" "$check/go/bin/tap"
