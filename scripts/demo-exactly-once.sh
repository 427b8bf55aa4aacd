#!/usr/bin/env bash
# --delivery exactly-once under kill -9: a recorded firehose -> atkafka -> a local Kafka, both killed again and again, and what
# a consumer saw that reads committed records. Needs no internet once the jars are there. Exit 1 if not exactly once.
set -euo pipefail

case ${1:-} in
  '') ;;
  -h | --help)
    cat <<'USAGE'
usage: [VARIABLE=...] scripts/demo-exactly-once.sh

  FRAMES  20000  frames of the relay
  RATE    700    frames a second
  KILLS   8      kill -9 of atkafka; with each fourth one of the broker as well
  KEEP           1 leaves the broker running, with the events in its topic demo
USAGE
    exit 0
    ;;
  *) echo 'usage: scripts/demo-exactly-once.sh' >&2; exit 2 ;;
esac

cd "$(dirname "${BASH_SOURCE[0]}")/.."
kafka=scripts/kafka.sh
total=${FRAMES:-20000} rate=${RATE:-700} kills=${KILLS:-8}
keep=0 # from the end of a good run on: a failed one leaves nothing behind
frames=fixtures/network.bin.zst
out=target/demo-exactly-once
bin=${BIN:-${CARGO_TARGET_DIR:-target}/release}
. scripts/demo/lib.sh

atkafka='' relay='' port=''
cleanup() {
  [ -z "$atkafka" ] || kill -KILL "$atkafka" 2>/dev/null || true
  [ -z "$relay" ] || stop "$relay"
  if [ -n "$port" ] && [ "$keep" = 0 ]; then $kafka kill --clean --port "$port" >/dev/null; fi
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

[ -f "$frames" ] || { echo "demo-exactly-once.sh: $frames is not there; make fixtures makes it" >&2; exit 1; }
scripts/deps.sh test
if [ -z "${BIN:-}" ]; then
  title 'build'
  scripts/build.sh
fi

title 'start'
rm -rf "$out"
mkdir -p "$out"
port=$($kafka free-port --port 19492)
relay_port=$((port + 5)) metrics_port=$((port + 6)) # a broker has the five before
$kafka kill --clean --port "$port" >/dev/null
$kafka start --version 4.3.1 --port "$port"
# The recorded events are older than the default retention.
$kafka create-topic demo --partitions 4 --config retention.ms=-1 --port "$port"

# bridge FLAGS...: atkafka in the background; its pid is in atkafka
bridge() {
  "$bin"/atkafka firehose relay --relay-host "ws://127.0.0.1:$relay_port" --cursor oldest \
    --metrics-listen-address "127.0.0.1:$metrics_port" "$@" &
  atkafka=$!
}
until_delivered() { # until_delivered SEQ: wait for it, a minute at most
  local end=$((SECONDS + 60))
  until [ "$(metric atkafka_last_seq_delivered)" -ge "$1" ]; do
    kill -0 "$atkafka" 2>/dev/null || { tail -n 20 "$out/atkafka.log" >&2; die "atkafka has ended"; }
    [ "$SECONDS" -lt "$end" ] || { tail -n 20 "$out/atkafka.log" >&2; die "not delivered up to seq $1 in a minute"; }
    sleep 0.1
  done
}
die() { echo "demo-exactly-once.sh: $*" >&2; exit 1; }

# What is to be seen, by a run that nobody disturbs: standard output has the same lines as the topic.
start_relay --total "$total" --quiet
bridge >"$out/expected" 2>"$out/atkafka.log"
until_delivered "$total"
stop "$atkafka"
wait "$atkafka" || die 'atkafka failed without Kafka'
stop "$relay"
echo "$total frames have $(wc -l <"$out/expected") events"

title "exactly once, with $kills kill -9 of atkafka"
start_relay --total "$total" --rate "$rate" --quiet
once() {
  bridge --bootstrap-servers "127.0.0.1:$port" --output-topic demo --delivery exactly-once --commit-interval 500ms \
    >>"$out/atkafka.log" 2>&1
}
once
for ((n = 1; n <= kills; n++)); do
  until_delivered $((total * n / (kills + 1)))
  kill -KILL "$atkafka"
  wait "$atkafka" 2>/dev/null || true
  printf 'kill -9 of atkafka, behind seq %s' $((total * n / (kills + 1)))
  if [ $((n % 4)) = 0 ]; then
    printf ', and of the broker'
    $kafka kill --port "$port" >/dev/null
    $kafka start --port "$port" >/dev/null
  fi
  echo
  once
done
until_delivered "$total"
stop "$atkafka"
wait "$atkafka" || die 'atkafka ended with a failure'
atkafka=''
stop "$relay"
relay=''

title 'what a consumer saw that reads committed records'
# It ends when nothing more comes.
$kafka consume --topic demo --from-beginning --timeout-ms 10000 --port "$port" --isolation-level read_committed \
  --formatter-property print.partition=true >"$out/seen" 2>"$out/consume.log" || true
position=$("$bin"/atkafka cursor show --bootstrap-servers "127.0.0.1:$port" --cursor-topic demo.cursor --json |
  sed -nE 's/.*"seq":([0-9]+).*/\1/p')

# Expected are the lines of the first file, in their order. A line of the second one has partition, key and value.
awk -F '\t' -v position="${position:-none}" -v total="$total" '
  NR == FNR { place[$0] = FNR; expected++; next }
  { partition = $1; value = $0; sub(/^[^\t]*\t[^\t]*\t/, "", value) }
  !(value in place) { foreign++; next }
  seen[value]++ { twice++; next }
  { if (place[value] < last[partition]) disorder++; last[partition] = place[value]; once++ }
  END {
    printf "%8d events expected\n%8d seen once\n%8d seen twice\n", expected, once - twice, twice
    printf "%8d missing\n%8d out of order in their partition\n%8d of somebody else\n", expected - once, disorder, foreign
    printf "%8s is the committed position; the last seq is %d\n", position, total
    exit !(expected > 0 && once == expected && !twice && !disorder && !foreign && position == total)
  }' "$out/expected" "$out/seen" || die "not exactly once; $out/ has what was expected and seen, and the log"
echo
echo "demo: each event exactly once and in order, over $kills kills; logs and records are in $out/"
if [ "${KEEP:-0}" = 1 ]; then
  keep=1
  cat <<LOOK

The broker still runs on 127.0.0.1:$port, until it is stopped. What was begun and not committed shows without the isolation:
  kcat -b 127.0.0.1:$port -t demo -C -e -q -X isolation.level=read_uncommitted | wc -l
  kcat -b 127.0.0.1:$port -t demo -C -e -q | wc -l
Stop it, and remove its data:
  scripts/kafka.sh stop --clean --port $port
LOOK
fi
