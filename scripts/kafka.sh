#!/usr/bin/env bash
# A real Apache Kafka broker without Docker: jars from Maven Central, one KRaft node.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: scripts/kafka.sh COMMAND [options]

  start     start a broker and wait until it serves
  stop      stop it in order               (--clean: remove its data, too)
  stop-all  stop every broker below target/kafka (--clean: remove their data, too)
  kill      kill -9                        (--clean: remove its data, too)
  restart   stop, then start on the same data
  status    print whether it runs; exit 1 if not
  wait      wait until a started broker serves
  fetch     only fetch the jars of --version
  free-port print the first of --port P, P+10, ... where a broker finds its ports free
  topics    list the topics
  create-topic NAME [--partitions N] [--config k=v]...
  acl ARGUMENTS...  what kafka-acls.sh takes, such as --add --allow-principal User:limited --operation Write --topic T
            (needs --listeners all)
  password USER PASSWORD  what USER logs in with by SCRAM-SHA-256, from now on (needs --listeners all)
  consume --topic T [--from-beginning] [--max N] [--timeout-ms N] [consumer options]
            print records as "key TAB value"

options:
  --version V          Kafka version        (default: what the data was made with, else 4.3.1)
  --port P             PLAINTEXT port       (default 9092; P+1 to P+4 are the broker's, too)
  --dir DIR            data, config and log (default target/kafka/data-P)
  --listeners plain|all
        all: also P+1 SASL_PLAINTEXT, P+2 SSL, P+3 SASL_SSL (P+4 is the controller's in both).
        SASL: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512; user atkafka, password secret. SASL_PLAINTEXT
        also OAUTHBEARER, with tokens without a signature.
        TLS: the server's CA is DIR/ca.pem
  --nodes N   start: N brokers that are one cluster, with N replicas of everything. The first has the ports from --port
        on, the next ones from P+10, P+20 on. The other commands take the port of one of them

environment: KAFKA_WAIT (seconds to wait for a start, default 90), KAFKA_JVM_OPTS (replaces the
default of a quick start: -Xms128m -Xmx512m -XX:TieredStopAtLevel=1 -XX:+UseSerialGC)
USAGE
}

die() { echo "kafka.sh: $*" >&2; exit 1; }
need() { [ $# -ge 2 ] || die "$1 needs a value"; }

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=$root/target/kafka
default_version=4.3.1
user=atkafka password=secret

command=${1:-help}
[ $# -eq 0 ] || shift
version='' port=9092 dir='' listeners='' clean=0 nodes=1 member=''
topic='' partitions='' max='' timeout_ms='' rest=() configs=()
while [ $# -gt 0 ]; do
  case $1 in
    --version) need "$@"; version=$2; shift 2 ;;
    --port) need "$@"; port=$2; shift 2 ;;
    --dir) need "$@"; dir=$2; shift 2 ;;
    --listeners) need "$@"; listeners=$2; shift 2 ;;
    --nodes) need "$@"; nodes=$2; shift 2 ;;
    --member) need "$@"; member=$2; shift 2 ;; # of start --nodes: which one of how many
    --clean) clean=1; shift ;;
    --topic) need "$@"; topic=$2; shift 2 ;;
    --partitions) need "$@"; partitions=$2; shift 2 ;;
    --config) need "$@"; configs+=(--config "$2"); shift 2 ;;
    --max) need "$@"; max=$2; shift 2 ;;
    --timeout-ms) need "$@"; timeout_ms=$2; shift 2 ;;
    -h | --help) usage; exit 0 ;;
    *) rest+=("$1"); shift ;;
  esac
done
[[ $port =~ ^[0-9]+$ ]] || die "--port is a number, not '$port'"
[[ $nodes =~ ^[1-9]$ ]] || die "--nodes is 1 to 9, not '$nodes'"
mkdir -p "$cache"
data=${dir:-$cache/data-$port}
[[ $data = /* ]] || data=$PWD/$data
log=$data/broker.log

# What a broker was made with holds for its data, unless the call says otherwise.
made_with() { [ -f "$data/$1" ] && cat "$data/$1" || echo "$2"; }
version=${version:-$(made_with version "$default_version")}
listeners=${listeners:-$(made_with listeners plain)}
member=${member:-$(made_with member 1/1)}
case $listeners in plain | all) ;; *) die "--listeners is plain or all, not '$listeners'" ;; esac
[[ $version =~ ^[0-9]+\.[0-9]+\.[0-9]+$ ]] || die "--version is like 4.3.1, not '$version'"
lib=$cache/$version/lib

# --- jars -----------------------------------------------------------------------------------

fetch() {
  [ -f "$cache/$version/complete" ] && return
  (
    flock 9
    [ -f "$cache/$version/complete" ] && exit
    rm -rf "${cache:?}/$version"
    mkdir -p "$lib"
    echo "fetching Kafka $version from Maven Central into $cache/$version" >&2
    # 3.x brings its own binding of slf4j; that of 4.x is left to the distribution.
    local log4j=''
    [[ $version = 3.* ]] || log4j='<dependency><groupId>org.apache.logging.log4j</groupId>
      <artifactId>log4j-slf4j-impl</artifactId><version>2.25.4</version></dependency>'
    cat >"$cache/$version/pom.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>local</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$version</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>$version</version></dependency>
    $log4j
  </dependencies>
</project>
POM
    write_log_configs
    copy_jars || { sleep 3 && copy_jars; } || { tail -n 15 "$cache/$version/mvn.log" >&2; die "mvn could not fetch Kafka $version"; }
    touch "$cache/$version/complete"
  ) 9>"$cache/$version.lock"
}

copy_jars() {
  mvn -B -ntp -q -f "$cache/$version/pom.xml" dependency:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory="$lib" </dev/null >"$cache/$version/mvn.log" 2>&1
}

# Quiet, except for the lines that say that a broker starts and serves.
write_log_configs() {
  cat >"$cache/$version/log4j2.properties" <<'CONF'
appender.err.type = Console
appender.err.name = err
appender.err.target = SYSTEM_ERR
appender.err.layout.type = PatternLayout
appender.err.layout.pattern = %d{HH:mm:ss.SSS} %p %c{1} %m%n
rootLogger.level = ${sys:log.level:-WARN}
rootLogger.appenderRef.err.ref = err
logger.start.name = kafka.server.KafkaRaftServer
logger.start.level = INFO
CONF
  cat >"$cache/$version/log4j.properties" <<'CONF'
log.level=WARN
log4j.rootLogger=${log.level}, err
log4j.appender.err=org.apache.log4j.ConsoleAppender
log4j.appender.err.target=System.err
log4j.appender.err.layout=org.apache.log4j.PatternLayout
log4j.appender.err.layout.ConversionPattern=%d{HH:mm:ss.SSS} %p %c{1} %m%n
log4j.logger.kafka.server.KafkaRaftServer=INFO
CONF
}

# The class path goes by environment: the command line then stays readable in ps.
class_path() {
  local jars=("$lib"/*.jar)
  local IFS=:
  echo "${jars[*]}"
}

# tool CLASS ARGS: a short-lived Java program of the same jars, silent but for errors.
tool() {
  CLASSPATH=$(class_path) exec java -Xshare:auto -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xmx256m \
    -Dlog.level="${TOOL_LOG_LEVEL:-ERROR}" \
    -Dlog4j2.configurationFile="$cache/$version/log4j2.properties" \
    -Dlog4j.configuration="file:$cache/$version/log4j.properties" "$@"
}

# --- data directory -------------------------------------------------------------------------

make_certificates() {
  [ -f "$data/ca.pem" ] && return
  (
    cd "$data"
    printf '%s\n' 'subjectAltName = DNS:localhost, IP:127.0.0.1' 'basicConstraints = critical, CA:FALSE' \
      'extendedKeyUsage = serverAuth' 'keyUsage = critical, digitalSignature, keyEncipherment' >server.ext
    openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj '/CN=atkafka test CA' \
      -addext 'keyUsage = critical, keyCertSign, cRLSign' -keyout ca.key -out ca.pem.new
    openssl req -newkey rsa:2048 -nodes -subj '/CN=localhost' -keyout server.key -out server.csr
    openssl x509 -req -in server.csr -CA ca.pem.new -CAkey ca.key -CAcreateserial -days 3650 \
      -extfile server.ext -out server.crt
    cat server.key server.crt ca.pem.new >server.pem
    mv ca.pem.new ca.pem
  ) >"$data/openssl.log" 2>&1 || die "openssl failed, see $data/openssl.log"
}

write_config() {
  local host=127.0.0.1 names=PLAINTEXT://127.0.0.1:$port
  local node=${member%/*} of=${member#*/} voters='' i
  for ((i = 1; i <= of; i++)); do voters+=${voters:+,}$i@$host:$((port + 10 * (i - node) + 4)); done
  [ "$listeners" = plain ] ||
    names+=,SASL_PLAINTEXT://$host:$((port + 1)),SSL://$host:$((port + 2)),SASL_SSL://$host:$((port + 3))
  {
    cat <<CONF
process.roles=broker,controller
node.id=$node
controller.quorum.voters=$voters
controller.listener.names=CONTROLLER
listeners=$names,CONTROLLER://$host:$((port + 4))
advertised.listeners=$names
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL
inter.broker.listener.name=PLAINTEXT
log.dirs=$data/logs
group.initial.rebalance.delay.ms=0
# A replica of everything on each node.
default.replication.factor=$of
offsets.topic.replication.factor=$of
transaction.state.log.replication.factor=$of
share.coordinator.state.topic.replication.factor=$of
min.insync.replicas=$((of / 2 + 1))
transaction.state.log.min.isr=$((of / 2 + 1))
share.coordinator.state.topic.min.isr=$((of / 2 + 1))
# Small, so that it is soon up and leaves the cores to others.
offsets.topic.num.partitions=4
transaction.state.log.num.partitions=4
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=16777216
# After kill -9 a node is served again only when its former session has ended (9 s by default).
log.retention.ms=-1
broker.session.timeout.ms=6000
broker.heartbeat.interval.ms=500
CONF
    [ "$listeners" = plain ] || cat <<CONF
# The user "limited" may do on a topic what the command acl says, once it has said anything about that topic.
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:$user
allow.everyone.if.no.acl.found=true
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.sasl_plaintext.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER
# Any token without a signature is good; the broker makes one for itself.
listener.name.sasl_plaintext.oauthbearer.sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";
ssl.keystore.type=PEM
ssl.keystore.location=$data/server.pem
CONF
    [ "$listeners" = plain ] || for name in sasl_plaintext sasl_ssl; do
      local scram='org.apache.kafka.common.security.scram.ScramLoginModule required;'
      cat <<CONF
listener.name.$name.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_$user="$password" user_limited="$password";
listener.name.$name.scram-sha-256.sasl.jaas.config=$scram
listener.name.$name.scram-sha-512.sasl.jaas.config=$scram
CONF
    done
  } >"$data/server.properties"
}

# Nodes of one cluster must agree on it without talking: it is made of their first port.
cluster_id() {
  if [ "$member" = 1/1 ]; then
    head -c 16 /dev/urandom | base64 | tr '+/' 'ab' | cut -c 1-22
  else
    printf 'atkafkaCluster%08d' "$((port - 10 * (${member%/*} - 1)))"
  fi
}

format() {
  [ -f "$data/formatted" ] && return
  rm -rf "$data/logs" # what an interrupted format left
  (TOOL_LOG_LEVEL=WARN tool kafka.tools.StorageTool format --config "$data/server.properties" \
    --cluster-id "$(cluster_id)" \
    --add-scram "SCRAM-SHA-256=[name=$user,password=$password]" \
    --add-scram "SCRAM-SHA-512=[name=$user,password=$password]") >"$data/format.log" 2>&1 ||
    die "kafka-storage format failed, see $data/format.log"
  touch "$data/formatted"
}

# --- process --------------------------------------------------------------------------------

# The pid of the running broker of this data directory; a number used again by another process is not it.
running() {
  [ -f "$data/pid" ] || return 1
  pid=$(<"$data/pid")
  # The process may end between the two, and then its file is gone.
  [ -n "$pid" ] && { tr '\0' ' ' <"/proc/$pid/cmdline"; } 2>/dev/null | grep -qF "kafka.Kafka $data/server.properties"
}

serves() { grep -qs 'Kafka Server started' "$log" && (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; }

wait_until_served() {
  local end=$((SECONDS + ${KAFKA_WAIT:-90}))
  until serves; do
    running || { tail -n 15 "$log" >&2 2>/dev/null; die "the broker on port $port is not running, see $log"; }
    [ "$SECONDS" -lt "$end" ] || die "the broker on port $port does not serve after ${KAFKA_WAIT:-90} s, see $log"
    sleep 0.1
  done
}

say() {
  running || die "the broker on port $port is gone, see $log"
  echo "kafka $(made_with version "$version") on 127.0.0.1:$port (pid $pid)"
}

# used_port P: print the first of a broker's ports P to P+4 that some program listens on.
used_port() {
  local p
  for p in "$1" $(($1 + 1)) $(($1 + 2)) $(($1 + 3)) $(($1 + 4)); do
    if (: <"/dev/tcp/127.0.0.1/$p") 2>/dev/null; then
      echo "$p"
      return
    fi
  done
  return 1
}

free_port() { # free_port P: the first of P, P+10, ... where a broker finds its ports free
  local first=$1
  while used_port "$first" >/dev/null; do first=$((first + 10)); done
  echo "$first"
}

# One start, stop or kill at a time for each data directory.
locked() { ( flock 9; "$@" ) 9>"$data.lock"; }

# Before anything is fetched or written.
check_ports() {
  local p
  if ! running && p=$(used_port "$port"); then
    die "port $p is in use by another program, and a broker takes $port to $((port + 4)). Choose others:" \
      "make kafka KAFKA_PORT=$(free_port $((port + 100))) (or scripts/kafka.sh start --port ...)"
  fi
}

launch() {
  if running; then
    [ "$version $listeners" = "$(made_with version '') $(made_with listeners '')" ] ||
      die "another broker runs on port $port: $(made_with version ''), --listeners $(made_with listeners '')"
    return
  fi
  check_ports
  mkdir -p "$data"
  echo "$version" >"$data/version"
  echo "$listeners" >"$data/listeners"
  echo "$member" >"$data/member"
  [ "$listeners" = plain ] || make_certificates
  write_config
  format
  # A log of its own for each start: "started" in it then means this start.
  if [ -f "$log" ]; then cat "$log" >>"$log.old"; rm "$log"; fi
  (
    # Nothing of the caller may be held open: neither its locks nor its pipes.
    local fd
    for fd in /proc/self/fd/*; do
      fd=${fd##*/}
      [ "$fd" -le 2 ] || eval "exec $fd>&-"
    done
    cd "$data"
    # shellcheck disable=SC2086 # options are words
    CLASSPATH=$(class_path) exec setsid java ${KAFKA_JVM_OPTS:--Xms128m -Xmx512m -XX:TieredStopAtLevel=1 -XX:+UseSerialGC} \
      -Xshare:auto -Djava.awt.headless=true \
      -Dlog4j2.configurationFile="$cache/$version/log4j2.properties" \
      -Dlog4j.configuration="file:$cache/$version/log4j.properties" \
      kafka.Kafka "$data/server.properties"
  ) </dev/null >"$log" 2>&1 &
  echo $! >"$data/pid"
  # The pid is a subshell's until it has become java; wait_until_served() would take it for a dead one.
  for _ in {1..100}; do
    running && return
    sleep 0.05
  done
  die "the broker did not start, see $log"
}

# end SIGNAL: end the broker, and say so; one that does not stop in 20 s is killed.
end() {
  local said=''
  if running; then
    said="stopped kafka $(made_with version "$version") on 127.0.0.1:$port (pid $pid)"
    kill "-$1" "$pid" 2>/dev/null || true
    for i in {1..500}; do
      running || break
      [ "$i" != 400 ] || kill -KILL "$pid" 2>/dev/null || true
      sleep 0.05
    done
    # A process that ends is without a name for a moment before it closes its ports.
    for i in {1..100}; do
      used_port "$port" >/dev/null || break
      sleep 0.05
    done
  fi
  rm -f "$data/pid"
  # Only a directory that a start has made: --dir may name any.
  if [ "$clean" = 1 ] && [ -f "$data/server.properties" ]; then
    rm -rf "$data"
    [ -z "$said" ] || echo "$said; its data are removed"
  elif [ -n "$said" ]; then
    echo "$said; its data stay in $data"
  fi
}

stop() {
  if ! running && [ "$clean" = 0 ]; then
    echo "no broker of this folder runs on port $port"
    each_broker say_how_to_stop
    return
  fi
  locked end TERM
}

say_how_to_stop() { if running; then echo "one runs on port $port: make kafka-stop KAFKA_PORT=$port"; fi; }

# each_broker COMMAND: for every broker below target/kafka.
each_broker() {
  local dir port data log
  for dir in "$cache"/data-*/; do
    [ -d "$dir" ] || continue
    data=${dir%/}
    port=${data##*/data-}
    log=$data/broker.log
    "$@"
  done
}

# Together, since the first ones serve only when most of them are there.
start_nodes() {
  local i pids=()
  fetch
  for ((i = 1; i <= nodes; i++)); do
    "$0" start --member "$i/$nodes" --version "$version" --listeners "$listeners" --port "$((port + 10 * (i - 1)))" \
      ${dir:+--dir "$dir-$i"} &
    pids+=($!)
  done
  for i in "${pids[@]}"; do wait "$i" || die 'a node did not start'; done
}

start() {
  if [ "$nodes" -gt 1 ]; then
    start_nodes
    return
  fi
  check_ports
  fetch
  locked launch
  wait_until_served
  say
}

case $command in
  start) start ;;
  stop) stop ;;
  stop-all) each_broker locked end TERM ;;
  kill) locked end KILL ;;
  restart) locked end TERM; start ;;
  status) if running; then say; else echo "no broker on 127.0.0.1:$port"; exit 1; fi ;;
  wait) running || die "no broker was started on port $port"; wait_until_served; say ;;
  fetch) fetch ;;
  free-port) free_port "$port" ;;
  topics)
    fetch
    tool org.apache.kafka.tools.TopicCommand --bootstrap-server "127.0.0.1:$port" --list
    ;;
  create-topic)
    [ "${#rest[@]}" -ge 1 ] || die 'create-topic needs a name'
    fetch
    [ -z "$partitions" ] || configs+=(--partitions "$partitions")
    tool org.apache.kafka.tools.TopicCommand --bootstrap-server "127.0.0.1:$port" --create --if-not-exists \
      --topic "${rest[0]}" "${configs[@]}"
    ;;
  acl)
    fetch
    [ -z "$topic" ] || rest+=(--topic "$topic")
    class=org.apache.kafka.tools.AclCommand
    [[ $version = 3.* ]] && class=kafka.admin.AclCommand
    TOOL_LOG_LEVEL=OFF tool "$class" --bootstrap-server "127.0.0.1:$port" "${rest[@]}"
    ;;
  password)
    [ "${#rest[@]}" -eq 2 ] || die 'password needs a user and a password'
    fetch
    tool kafka.admin.ConfigCommand --bootstrap-server "127.0.0.1:$port" --alter --entity-type users \
      --entity-name "${rest[0]}" --add-config "SCRAM-SHA-256=[iterations=4096,password=${rest[1]}]"
    ;;
  consume)
    [ -n "$topic" ] || die 'consume needs --topic'
    fetch
    # The option's name since 4.2; the new group protocol, since the tool else prints a line in its favour.
    options=(--formatter-property print.key=true --command-property group.protocol=consumer)
    case $version in 3.* | 4.[01].*) options=(--property print.key=true) ;; esac
    [ -z "$max" ] || rest+=(--max-messages "$max")
    [ -z "$timeout_ms" ] || rest+=(--timeout-ms "$timeout_ms")
    TOOL_LOG_LEVEL=OFF tool org.apache.kafka.tools.consumer.ConsoleConsumer --bootstrap-server "127.0.0.1:$port" \
      --topic "$topic" "${options[@]}" "${rest[@]}"
    ;;
  help | -h | --help) usage ;;
  *) usage >&2; exit 2 ;;
esac
