#!/usr/bin/env bash
# A new user's first hour, in fresh Debian roots: what the README says is enough, the make targets install or name the rest, and
# every program is compiled once. Once as an ordinary user, once as root.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: [VARIABLE=...] scripts/fresh-check.sh [SUITE...]   (default: bookworm trixie, which are Debian 12 and 13)

Takes some 20 minutes and 3 GB in target/fresh for each. Needs root, mmdebstrap, the Rust of this machine (it is mounted in), and
the internet for Debian's packages, crates and Kafka's jars. What is committed is tried, not the working tree.

  WHO     "user root"                     who tries it
  MIRROR  http://deb.debian.org/debian
USAGE
}

case ${1:-} in
  -h | --help) usage; exit 0 ;;
  -*) usage >&2; exit 2 ;;
esac
[ $# -gt 0 ] || set -- bookworm trixie

cd "$(dirname "${BASH_SOURCE[0]}")/.."
die() { echo "fresh-check.sh: $*" >&2; exit 1; }
[ "$(id -u)" = 0 ] || die 'needs root: it makes and enters file systems'
command -v mmdebstrap >/dev/null || die 'mmdebstrap is missing: apt-get install mmdebstrap'
out=$PWD/target/fresh
mkdir -p "$out"
rust=$(rustc --print sysroot)
cargo=${CARGO_HOME:-$HOME/.cargo}

# What runs inside, as root. The arguments are who tries it (user or root) and free ports of this machine, which is shared.
cat >"$out/inside.sh" <<'INSIDE'
set -euo pipefail
who=$1 kafka=$2 relay=$3
home=/src
say() { printf '\n-- [%s] %s\n' "$who" "$*"; }
die() { echo "fresh-check: [$who] $*" >&2; exit 1; }
variables=(CARGO_TARGET_DIR=/build/target CARGO_HOME=/cargo HOME=/src PATH=/rust/bin:/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8
  CARGO_HTTP_CAINFO=/etc/ssl/certs/ca-certificates.crt)
try() { # try COMMAND: as who tries it, in the clone; the output is in /tmp/said, too
  local as=(env -i "${variables[@]}")
  [ "$who" = root ] || as=(runuser -u new -- "${as[@]}")
  (cd /src/atkafka && "${as[@]}" bash -c "$1") </dev/null 2>&1 | tee /tmp/said
}
timed() { # fails as the command does
  local begin=$SECONDS failed=0
  "$@" || failed=$?
  echo "   took $((SECONDS - begin)) s"
  return "$failed"
}
not_compiled() { if grep -q '^ *Compiling' /tmp/said; then die "$1 compiles again"; fi; }

apt-get update -qq
owner=root
if [ "$who" = user ]; then
  id new >/dev/null 2>&1 || useradd --home-dir /src --no-create-home --shell /bin/bash new
  owner=new
fi
chown -R "$owner": /src /build /cargo

if [ "$who" = user ]; then
  say 'without the packages: a user is told which'
  apt-get install -y -qq make >/dev/null 2>&1 # the first of them
  if try 'make build' >/dev/null; then die 'make build succeeds without a compiler'; fi
  grep -q 'install with: sudo apt-get update && sudo apt-get install -y .*g++' /tmp/said || die "make build says only: $(cat /tmp/said)"
  say 'the packages of the README'
  sed -nE 's/^sudo (apt-get install [^#]*).*/\1/p' /src/atkafka/README.md >/tmp/packages
  [ -s /tmp/packages ] || die 'README.md has no line that begins with sudo apt-get install'
  while read -r line; do
    echo "$line"
    DEBIAN_FRONTEND=noninteractive $line -y -qq --no-install-recommends >/tmp/apt.log 2>&1 </dev/null || { tail -n 20 /tmp/apt.log; die "failed: $line"; }
  done </tmp/packages
else
  say 'nothing but make: root has the rest installed'
  apt-get install -y -qq make >/dev/null 2>&1
fi

say 'make build'
timed try 'make build' | tail -n 5
say 'make run-relay, from the loopback relay'
try "/build/target/release/loopback-relay --listen 127.0.0.1:$relay --file fixtures/network.bin.zst --from-start --now --rate 200 --total 100000 --quiet" >/dev/null &
sleep 1
try "timeout -s INT 20 make run-relay RELAY_HOST=ws://127.0.0.1:$relay ARGS='--metrics-listen-address 127.0.0.1:$((relay + 1))' 2>/tmp/log-$who | grep -m 3 did | cut -c -150"
[ "$(grep -c '"did"' /tmp/said)" = 3 ] || { cat "/tmp/log-$who"; die 'make run-relay wrote no events'; }
if grep 'Compiling' "/tmp/log-$who"; then die 'make run-relay compiles again'; fi

keep=''
[ "$who" = user ] || keep=' KEEP=1'
say "make demo$keep"
timed try "make demo$keep" >/tmp/demo || { tail -n 40 /tmp/demo; die 'make demo failed'; }
not_compiled 'make demo'
tail -n 25 /tmp/demo
grep -q '^demo: [0-9]* records delivered' /tmp/demo || die 'the demo delivered nothing'
left=$(sed -nE 's/^  (scripts\/kafka.sh stop --clean .*)/\1/p' /tmp/demo)
if [ -n "$keep" ]; then
  try "${left/stop --clean/topics}" | grep -qx demo || die 'the demo left no broker with its topic'
  try "$left" | grep '^stopped kafka ' || die "the demo's broker is not stopped by: $left"
elif [ -n "$left" ]; then
  die 'the demo leaves a broker unasked'
fi

say 'make demo-exactly-once'
timed try 'make demo-exactly-once' >/tmp/once || { tail -n 40 /tmp/once; die 'make demo-exactly-once failed'; }
not_compiled 'make demo-exactly-once'
tail -n 12 /tmp/once

say 'make kafka, events into it, make kafka-stop'
timed try "make kafka KAFKA_PORT=$kafka"
try "timeout -s INT 10 make run-relay RELAY_HOST=ws://127.0.0.1:$relay BOOTSTRAP_SERVERS=127.0.0.1:$kafka ARGS='--metrics-listen-address 127.0.0.1:$((relay + 1))'" >/dev/null || true
not_compiled 'make run-relay'
lines=$(try "scripts/kafka.sh consume --topic atproto-events --from-beginning --max 100 --timeout-ms 10000 --port $kafka" | grep -c '"did"') || true
[ "$lines" -ge 100 ] || die "only $lines events in Kafka"
echo "$lines events read back"
if try "make kafka KAFKA_PORT=$((kafka - 1))" >/dev/null; then die 'a broker starts on ports that are taken'; fi
grep -q 'make kafka KAFKA_PORT=' /tmp/said || die 'a taken port: nothing is said about how to choose another'
try "make kafka-stop KAFKA_PORT=$kafka"
grep -q "^stopped kafka .*:$kafka " /tmp/said || die 'kafka-stop does not say what it stopped'
try "make kafka-stop KAFKA_PORT=$kafka"
[ "$(grep -c . /tmp/said)" = 1 ] || die 'kafka-stop of a stopped broker: not one line'

say 'make install, as root'
rm -rf /tmp/dest
(cd /src/atkafka && env -i "${variables[@]}" DESTDIR=/tmp/dest make install) 2>&1 | tee /tmp/said
not_compiled 'make install'
/tmp/dest/usr/local/bin/atkafka --version
if [ "$who" = user ]; then
  # Root installs what is older than its source: the owner of the source builds it, with the Rust of a login shell.
  echo "export PATH=/rust/bin:\$PATH CARGO_HOME=/cargo CARGO_HTTP_CAINFO=/etc/ssl/certs/ca-certificates.crt" >/src/.profile
  touch /src/atkafka/src/main.rs
  (cd /src/atkafka && env -i "${variables[@]}" DESTDIR=/tmp/dest make install) >/tmp/said 2>&1 || { cat /tmp/said; die 'make install'; }
  grep -q 'building it, as new' /tmp/said || die 'make install takes a program that is older than its source'
  [ -z "$(find /build -user root -print -quit)" ] || die 'root has compiled in a tree that is not its own'
else
  say 'make clean, with a broker that still runs'
  try "make kafka KAFKA_PORT=$kafka"
  try 'make clean'
  grep -q "^stopped kafka .*:$kafka " /tmp/said || die 'make clean leaves a broker behind'
  if [ -e /src/atkafka/target ] || [ -e /build/target ]; then die 'make clean leaves target/'; fi
fi
INSIDE

# enter ROOT COMMAND...: there, with mounts and processes that end with it.
enter() {
  local root=$1
  shift
  mkdir -p "$root"/{rust,build,cargo,src}
  # shellcheck disable=SC2016 # for the inner shell
  unshare --mount --pid --fork --kill-child --propagation private bash -euc '
    root=$1 rust=$2 build=$3 cargo=$4
    shift 4
    mount --rbind /dev "$root/dev"
    mount -t proc proc "$root/proc"
    mount --bind -o ro "$rust" "$root/rust"
    mount --bind "$build" "$root/build"
    mount --bind "$cargo" "$root/cargo"
    exec chroot "$root" "$@"' - "$root" "$rust" "$build" "$out/cargo" "$@"
}

# Crates that this machine has need not be fetched again.
if [ ! -d "$out/cargo/registry" ]; then
  mkdir -p "$out/cargo/registry"
  for part in cache index; do [ ! -d "$cargo/registry/$part" ] || cp -a "$cargo/registry/$part" "$out/cargo/registry/"; done
fi
# Two of these at once take different ones.
kafka_port=$(scripts/kafka.sh free-port --port $((20000 + $$ % 100 * 100)))
for suite; do
  if [ ! -f "$out/$suite.tar" ]; then
    echo "== $suite, by mmdebstrap"
    mmdebstrap --format=tar --variant=minbase --include=ca-certificates "$suite" "$out/$suite.tar.new" "${MIRROR:-http://deb.debian.org/debian}" \
      >"$out/$suite.log" 2>&1 || die "mmdebstrap failed, see $out/$suite.log"
    mv "$out/$suite.tar.new" "$out/$suite.tar"
  fi
  build=$out/build-$suite
  mkdir -p "$build"
  for who in ${WHO:-user root}; do
    echo "== $suite, as $who"
    root=$out/root-$suite
    rm -rf "$root"
    mkdir -p "$root"
    tar -xf "$out/$suite.tar" -C "$root" --exclude=./dev
    mkdir -p "$root/dev" "$root/src/atkafka"
    cp /etc/resolv.conf /etc/hosts "$root/etc/"
    # The roots that this machine trusts by itself, for what it may reach the internet by.
    if compgen -G '/usr/local/share/ca-certificates/*' >/dev/null; then
      cp /usr/local/share/ca-certificates/* "$root/usr/local/share/ca-certificates/"
      chroot "$root" update-ca-certificates >/dev/null 2>&1
    fi
    git archive HEAD | tar -x -C "$root/src/atkafka"
    cp "$out/inside.sh" "$root/inside.sh"
    enter "$root" bash /inside.sh "$who" "$kafka_port" $((kafka_port + 20)) 2>&1 | tee "$out/$suite-$who.log"
  done
  rm -rf "$root" "$build"
done
echo "fresh-check: passed: $*"
