#!/usr/bin/env bash
# All tests, against two real brokers: Kafka 4.3.1 with every listener and Kafka 3.9.1.
set -euo pipefail

case ${1:-} in
  -h | --help)
    echo 'usage: scripts/test.sh [arguments of cargo test]'
    exit 0
    ;;
esac

cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/deps.sh test
kafka=$PWD/scripts/kafka.sh
mkdir -p target/kafka
ports=$(mktemp)
export KAFKA_WAIT=${KAFKA_WAIT:-180} # the compiler takes the cores meanwhile

# A lock from choosing the ports to serving on them: two runs at once must not choose the same.
start_brokers() (
  flock 8
  new=$("$kafka" free-port --port 19092)
  old=$((new < 19192 ? 19192 : new + 10))
  old=$("$kafka" free-port --port "$old")
  echo "$new $old" >"$ports"
  for port in "$new" "$old"; do "$kafka" kill --clean --port "$port"; done # left by a run that was killed
  "$kafka" start --version 3.9.1 --port "$old" &
  "$kafka" start --version 4.3.1 --port "$new" --listeners all
  wait $!
) 8>target/kafka/test.lock

# The guard on what the hot path costs. Without valgrind it is left out where somebody works, and not in CI.
instructions() {
  if [ "${CI:-}" != true ] && ! command -v valgrind >/dev/null && ! scripts/deps.sh instructions >/dev/null 2>&1; then
    echo 'test.sh: not run: the count of instructions (examples/instructions.rs), for which valgrind is missing: sudo apt-get install valgrind' >&2
    return 0
  fi
  scripts/instructions.sh
}

cleanup() {
  wait "$starting" 2>/dev/null || true
  for port in $(<"$ports"); do "$kafka" kill --clean --port "$port" || true; done
  rm -f "$ports"
}

start_brokers &
starting=$!
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

cargo test --workspace --no-run "$@"
# Not with a choice of tests. The brokers may still start meanwhile: a count does not mind.
counted=0
if [ $# = 0 ]; then instructions || counted=$?; fi
wait "$starting"
read -r new old <"$ports"

# Most tests mostly wait: one more than there are cores takes two thirds of the time.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$(($(nproc) + 1))}
export ATKAFKA_TEST_KAFKA=127.0.0.1:$new
export ATKAFKA_TEST_KAFKA_SASL=127.0.0.1:$((new + 1))
export ATKAFKA_TEST_KAFKA_SSL=127.0.0.1:$((new + 2))
export ATKAFKA_TEST_KAFKA_SASL_SSL=127.0.0.1:$((new + 3))
export ATKAFKA_TEST_KAFKA_CA=$PWD/target/kafka/data-$new/ca.pem
export ATKAFKA_TEST_KAFKA_39=127.0.0.1:$old
tested=0
cargo test --workspace --no-fail-fast "$@" || tested=$?
[ "$counted" = 0 ] || echo 'test.sh: the count of instructions failed before the tests: see above, or make instructions' >&2
[ "$tested" = 0 ] && [ "$counted" = 0 ]
