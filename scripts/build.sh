#!/usr/bin/env bash
# The release build: atkafka, loopback-relay and make-fixtures by one call of cargo. Other calls (a single package, say) choose
# other features of the same dependencies, and compile them once more.
set -euo pipefail

case ${1:-} in
  '') ;;
  -h | --help) echo 'usage: scripts/build.sh   (into CARGO_TARGET_DIR, default target)'; exit 0 ;;
  *) echo 'usage: scripts/build.sh' >&2; exit 2 ;;
esac

cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/deps.sh build
if [ ! -d "${CARGO_TARGET_DIR:-target}/release/deps" ]; then
  echo "build.sh: the first build compiles some 200 crates and librdkafka: about 5 minutes on 2 cores, 2 minutes on 8"
fi
exec cargo build --release --workspace --bins
