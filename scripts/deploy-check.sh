#!/usr/bin/env bash
# What is shipped beside the program, by the programs that read it: the compose files by compose's own loader, the manifests
# for Kubernetes by its schemas, a Kafka by the settings of the compose files, the alerts by promtool, and each query of
# dashboard and alerts by a Prometheus that scrapes atkafka.
set -euo pipefail

case ${1:-} in
  '') ;;
  -h | --help) echo 'usage: scripts/deploy-check.sh   (environment: BIN folder of atkafka and loopback-relay, default target/release, built)'; exit 0 ;;
  *) echo 'usage: scripts/deploy-check.sh' >&2; exit 2 ;;
esac

cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/deps.sh test
scripts/deps.sh deploy
out=$PWD/target/deploy
rm -rf "${out:?}"/{kafka,prometheus,state}
mkdir -p "$out"
title() { printf '\n== %s\n' "$*"; }
die() { echo "deploy-check.sh: $*" >&2; exit 1; }

started=()
cleanup() {
  for pid in "${started[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
  wait
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

listens() { (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
# wait_for WHAT SECONDS COMMAND: until it succeeds.
wait_for() {
  local what=$1 end=$((SECONDS + $2))
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$end" ] || die "not in time: $what, see $out"
    sleep 0.3
  done
}
http() ( # http PORT PATH: the body of an answer
  exec 3<>"/dev/tcp/127.0.0.1/$1"
  printf 'GET %s HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n' "$2" >&3
  timeout 5 sed '1,/^\r$/d' <&3
)
# A block of free ports: Kafka's five, and relay, metrics and Prometheus.
port=$(scripts/kafka.sh free-port --port 23092)
relay_port=$((port + 5)) metrics_port=$((port + 6)) prometheus_port=$((port + 7))

if [ -n "${BIN:-}" ]; then bin=$BIN; else
  bin=target/release
  scripts/build.sh
fi

title 'compose files'
ozone=(ATKAFKA_OZONE_PDS_HOST=https://pds.example.com ATKAFKA_OZONE_IDENTIFIER=i ATKAFKA_OZONE_PASSWORD=p ATKAFKA_OZONE_LABELER_DID=did:plc:l)
loader=''
if docker compose version >/dev/null 2>&1; then
  loader=docker
elif command -v go >/dev/null; then
  # The loader is a library of compose: no engine, no plug-in.
  loader=$out/compose/compose
  mkdir -p "$out/compose"
  cat >"$out/compose/main.go" <<'GO'
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/compose-spec/compose-go/v2/cli"
)

func main() {
	options, err := cli.NewProjectOptions(os.Args[1:], cli.WithOsEnv, cli.WithEnvFiles(), cli.WithDotEnv, cli.WithProfiles([]string{"*"}))
	if err == nil {
		project, failed := options.LoadProject(context.Background())
		if err = failed; err == nil {
			text, _ := project.MarshalYAML()
			fmt.Print(string(text))
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
GO
  if [ ! -x "$loader" ]; then
    (cd "$out/compose" && rm -f go.mod && go mod init compose && go mod tidy && go build -o compose .) >"$out/go.log" 2>&1 ||
      { tail -n 5 "$out/go.log" >&2; die 'compose-go cannot be built'; }
  fi
fi
compose() { # compose FILE: what it says, everything filled in
  if [ "$loader" = docker ]; then docker compose --profile observability -f "$1" config; else "$loader" "$1"; fi
}
if [ -z "$loader" ]; then
  echo 'skipped: neither docker compose nor go is here'
else
  for file in docker-compose.yml docker-compose.jetstream.yml docker-compose.tap.yml docker-compose.ozone.yml; do
    (export "${ozone[@]}"; compose "$file") >"$out/$file" || die "$file is not valid"
    echo "$file: $(grep -cE '^    image: ' "$out/$file") services"
  done
  if (unset "${ozone[@]%%=*}"; compose docker-compose.ozone.yml) >/dev/null 2>"$out/ozone.err"; then
    die 'the Ozone file is taken without the variables that it requires'
  fi
  grep -q 'ATKAFKA_OZONE_' "$out/ozone.err" || die "no variable is named in $out/ozone.err"
fi

title 'manifests for Kubernetes'
# By the schemas that the validator brings along: no cluster, no internet. Of the oldest version that it has, too.
if ! python3 -m venv "$out/venv" >"$out/venv.log" 2>&1 || ! "$out/venv/bin/pip" install --quiet 'kubernetes-validate>=1.31' >>"$out/venv.log" 2>&1; then
  echo 'skipped: python3 with venv and pip is not here, or has no kubernetes-validate'
else
  for version in '' 1.29; do
    "$out/venv/bin/kubernetes-validate" --strict ${version:+-k "$version"} packaging/kubernetes/*.yml || die 'a manifest is not valid'
  done
fi

title 'Kafka by the settings of docker-compose.tap.yml'
if [ -z "$loader" ]; then
  echo 'skipped: as above'
else
  scripts/kafka.sh fetch --version 4.3.1 --port "$port"
  mkdir -p "$out/kafka"
  # As the image does it: KAFKA_A_B is a.b. Names and ports of the container network become those of this machine.
  sed -n '/^  kafka:/,/^  [a-z]/p' "$out/docker-compose.tap.yml" | sed -nE 's/^      (KAFKA_[A-Z_]+): "?([^"]*)"?$/\1=\2/p' |
    grep -v '^KAFKA_HEAP_OPTS=' | while IFS='=' read -r name value; do
    name=${name#KAFKA_}
    name=${name,,}
    printf '%s=%s\n' "${name//_/.}" "$value"
  done | sed -E "s#://:#://127.0.0.1:#g; s#kafka:#127.0.0.1:#g; s#localhost:#127.0.0.1:#g
    s#:29092#:$((port + 1))#g; s#:9092#:$port#g; s#:29093#:$((port + 4))#g; s#^log.dirs=.*#log.dirs=$out/kafka/logs#" >"$out/kafka/server.properties"
  java_tool() {
    CLASSPATH="$(printf '%s:' target/kafka/4.3.1/lib/*.jar)" exec java -Xmx512m -XX:TieredStopAtLevel=1 -XX:+UseSerialGC \
      -Dlog4j2.configurationFile="$PWD/target/kafka/4.3.1/log4j2.properties" "$@"
  }
  id=$(sed -nE 's/^      CLUSTER_ID: //p' "$out/docker-compose.tap.yml")
  (java_tool kafka.tools.StorageTool format --cluster-id "$id" --config "$out/kafka/server.properties") >"$out/kafka/format.log" 2>&1 ||
    die "see $out/kafka/format.log"
  (java_tool kafka.Kafka "$out/kafka/server.properties") >"$out/kafka/broker.log" 2>&1 &
  started+=($!)
  wait_for 'Kafka serves inside' 90 listens $((port + 1)) # what its health check asks
  wait_for 'Kafka serves outside' 10 listens "$port"
  grep -E '^(listeners|advertised|log.retention)' "$out/kafka/server.properties"
fi

title 'atkafka and Prometheus'
"$bin/loopback-relay" --listen "127.0.0.1:$relay_port" --file fixtures/network.bin.zst --from-start --rate 100 >"$out/relay.log" 2>&1 &
started+=($!)
wait_for 'the relay' 10 listens "$relay_port"
to_kafka=()
[ -z "$loader" ] || to_kafka=(--bootstrap-servers "127.0.0.1:$((port + 1))" --output-topic deploy-check --state-dir "$out/state")
"$bin/atkafka" firehose relay --relay-host "ws://127.0.0.1:$relay_port" --cursor oldest --metrics-listen-address "127.0.0.1:$metrics_port" \
  "${to_kafka[@]}" >"$out/atkafka.out" 2>"$out/atkafka.log" &
started+=($!)
wait_for 'atkafka delivers' 60 "$bin/atkafka" healthcheck --ready --metrics-listen-address "127.0.0.1:$metrics_port"
mkdir -p "$out/prometheus"
sed -E "s#atkafka:6009#127.0.0.1:$metrics_port#; s#/etc/prometheus#$PWD/packaging/prometheus#; s#interval: 15s#interval: 1s#" \
  packaging/prometheus/prometheus.yml >"$out/prometheus/prometheus.yml"
prometheus --config.file="$out/prometheus/prometheus.yml" --storage.tsdb.path="$out/prometheus/data" \
  --web.listen-address="127.0.0.1:$prometheus_port" >"$out/prometheus/log" 2>&1 &
started+=($!)
wait_for 'Prometheus' 30 http "$prometheus_port" /-/ready
sleep 20 # rates want some scrapes

title 'alerts'
promtool check rules packaging/prometheus/alerts.yml
promtool test rules packaging/prometheus/alerts.test.yml
alerts=$(grep -c -- '- alert:' packaging/prometheus/alerts.yml)
rules=$(http "$prometheus_port" /api/v1/rules)
well=$(grep -oF '"health":"ok"' <<<"$rules" | wc -l)
[ "$well" = "$alerts" ] || die "of $alerts alerts Prometheus evaluates $well without an error: $rules"
url=http://127.0.0.1:$prometheus_port
firing=$(promtool query instant "$url" 'ALERTS{alertstate="firing"}')
[ -z "$firing" ] || die "alerts although all is well: $firing"
echo "$alerts alerts evaluated by Prometheus, none fires"

title 'queries of the dashboard'
count=0 empty=0
while IFS= read -r query; do
  query=${query//\$instance/.*}
  query=${query//\$__rate_interval/10s}
  query=${query//\$__range/1m}
  answer=$(promtool query instant "$url" "$query" 2>&1) || die "Prometheus refuses: $query: $answer"
  count=$((count + 1))
  if [ -z "$answer" ]; then
    empty=$((empty + 1))
    echo "no data: $query"
  fi
done < <(grep -oE '"expr": "([^"\\]|\\.)*"' packaging/grafana/dashboards/atkafka.json | sed -E 's/^"expr": "(.*)"$/\1/; s/\\"/"/g')
[ "$count" -gt 40 ] || die "only $count queries were found"
[ $((count - empty)) -gt 25 ] || die "only $((count - empty)) of $count queries have data"

if [ -n "$loader" ]; then
  title 'what arrived, read by the outer listener'
  scripts/kafka.sh consume --topic deploy-check --from-beginning --max 1000 --timeout-ms 10000 --port "$port" >"$out/records.tsv" 2>"$out/consume.log" || true
  lines=$(wc -l <"$out/records.tsv")
  [ "$lines" = 1000 ] || die "$lines records, see $out/consume.log"
  echo "$lines records"
fi
echo "deploy-check: passed; $count queries without an error, $empty without data here (Tap, Ozone, enrichment, faults)"
