#!/usr/bin/env bash
# A recorded firehose -> atkafka -> a local Kafka, and what arrived. Needs no internet once the jars are there.
set -euo pipefail

case ${1:-} in
  '') ;;
  -h | --help)
    cat <<'USAGE'
usage: [VARIABLE=...] scripts/demo.sh

  RATE         500   events a second
  SECONDS_MAX  10    it ends after so many seconds, or 2 s after the last event
  KEEP               1 leaves the broker running, with the events in its topic demo
USAGE
    exit 0
    ;;
  *) echo 'usage: scripts/demo.sh' >&2; exit 2 ;;
esac

cd "$(dirname "${BASH_SOURCE[0]}")/.."
kafka=scripts/kafka.sh
rate=${RATE:-500}
keep=0 # from the end of a good run on: a failed one leaves nothing behind
frames=fixtures/network.bin.zst
out=target/demo
bin=${CARGO_TARGET_DIR:-target}/release
if [ -t 1 ]; then width=$(tput cols 2>/dev/null || echo 100); else width=160; fi

. scripts/demo/lib.sh

atkafka='' relay='' port=''
cleanup() {
  [ -z "$atkafka" ] || stop "$atkafka"
  [ -z "$relay" ] || stop "$relay"
  if [ -n "$port" ] && [ "$keep" = 0 ]; then $kafka kill --clean --port "$port" >/dev/null; fi
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

[ -f "$frames" ] || { echo "demo.sh: $frames is not there; make fixtures makes it" >&2; exit 1; }
scripts/deps.sh test
title 'build'
scripts/build.sh

title 'start'
rm -rf "$out"
mkdir -p "$out"
port=$($kafka free-port --port 19392)
relay_port=$((port + 5)) metrics_port=$((port + 6)) # a broker has the five before
$kafka kill --clean --port "$port" >/dev/null
$kafka start --version 4.3.1 --port "$port"
$kafka create-topic demo --partitions 4 --port "$port"

start_relay --now --rate "$rate"
echo "relay on ws://127.0.0.1:$relay_port, $rate events a second, as if they happened now"

"$bin"/atkafka firehose relay --relay-host "ws://127.0.0.1:$relay_port" --bootstrap-servers "127.0.0.1:$port" \
  --output-topic demo --state-dir "$out/state" --metrics-listen-address "127.0.0.1:$metrics_port" --cursor oldest \
  >"$out/atkafka.log" 2>&1 &
atkafka=$!
echo "atkafka (pid $atkafka), metrics on http://127.0.0.1:$metrics_port/metrics"

# Until nothing more came for 2 s, or the time is over.
end=$((SECONDS + ${SECONDS_MAX:-10})) before=0 still=0
while [ "$SECONDS" -lt "$end" ] && [ "$still" -lt 4 ]; do
  sleep 0.5
  kill -0 "$atkafka" 2>/dev/null || { echo 'demo.sh: atkafka has ended:' >&2; tail -n 20 "$out/atkafka.log" >&2; exit 1; }
  produced=$(metric atkafka_produced_events)
  if [ "$produced" != 0 ] && [ "$produced" = "$before" ]; then still=$((still + 1)); else still=0; fi
  before=$produced
done

title 'some lines of /metrics'
http "$metrics_port" /metrics >"$out/metrics.txt" || true
grep -E '^atkafka_(handled|produced|lag|last_seq|connected|frames_in|build)' "$out/metrics.txt" | head -n 20 | cut -c "1-$width" || true

stop "$atkafka"
wait "$atkafka" && code=0 || code=$?
atkafka=''
stop "$relay"
relay=''

# As many as it says that it delivered. On a busy machine the consumer takes long to begin, so that the timeout is only for loss.
delivered=$(sed -nE 's/.* delivered ([0-9]+) records.*/\1/p' "$out/atkafka.log" | tail -n 1)
$kafka consume --topic demo --from-beginning --max "${delivered:-1}" --timeout-ms 30000 --port "$port" >"$out/records.tsv" 2>"$out/consume.log" ||
  true
count=$(wc -l <"$out/records.tsv")

title 'events in Kafka (key, value)'
awk -F '\t' 'NR % step == 1 && shown++ < 6' step=$((count / 6 + 2)) "$out/records.tsv" | tr '\t' ' ' | cut -c "1-$width"

title "$count records, by action"
# The first key that tells the kind; a record's own fields come after it.
awk -F '\t' 'match($2, /"action": ?"[a-z]+"|"(account|identity|sync|info)": ?\{/) {
  kind = substr($2, RSTART, RLENGTH); sub(/"action": ?/, "", kind); gsub(/[":{ ]/, "", kind); n[kind]++; next
} { n["other"]++ } END { for (kind in n) printf "%8d %s\n", n[kind], kind }' "$out/records.tsv" | sort -rn

title 'the last lines of its log'
tail -n 5 "$out/atkafka.log" | cut -c "1-$width"
echo
[ "$code" = 0 ] || { echo "demo.sh: atkafka ended with status $code" >&2; exit 1; }
[ "$count" = "${delivered:-1}" ] || { echo "demo.sh: of ${delivered:-no} delivered records $count are in Kafka" >&2; exit 1; }
echo "demo: $count records delivered; logs and records are in $out/"
if [ "${KEEP:-0}" = 1 ]; then
  keep=1
  cat <<LOOK

The broker still runs on 127.0.0.1:$port, until it is stopped. Look at its topic demo, and put more events into another one:
  kcat -b 127.0.0.1:$port -t demo -C -e | head
  scripts/kafka.sh topics --port $port
  make run-relay BOOTSTRAP_SERVERS=127.0.0.1:$port
Stop it, and remove its data:
  scripts/kafka.sh stop --clean --port $port
LOOK
fi
