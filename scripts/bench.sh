#!/usr/bin/env bash
# All figures: the stages of a frame, then from a relay into a broker that is started for it. 20 minutes.
set -euo pipefail

case ${1:-} in
  -h | --help)
    echo 'usage: scripts/bench.sh [arguments of cargo bench]'
    echo 'ATKAFKA_BENCH_KAFKA=HOST:PORT: a broker of your own. The other variables: benches/end_to_end.rs, benches/decode.rs'
    exit 0
    ;;
esac

cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/deps.sh build
cargo bench --no-run "$@"
if [ -z "${ATKAFKA_BENCH_KAFKA:-}" ]; then
  port=$(scripts/kafka.sh free-port --port 19292)
  trap 'scripts/kafka.sh kill --clean --port "$port"' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  scripts/kafka.sh start --port "$port"
  export ATKAFKA_BENCH_KAFKA=127.0.0.1:$port
fi
cargo bench "$@"
