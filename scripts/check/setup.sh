# shellcheck shell=bash
# What the checks against real servers need, below target/check: read by scripts/tap-check.sh and scripts/ozone-check.sh.

check=$PWD/target/check
dev_env=0.6.7
tap_version=v0.0.0-20260605210604-af2fec94f34c

fail() { echo "${0##*/}: $*" >&2; exit 1; }

# need PROGRAM WHAT: what it is for, and where it comes from.
need() { command -v "$1" >/dev/null || fail "$1 is missing: $2"; }

# A node of at least 22, in PATH. An older one fetches a newer one from npm.
newer_node() {
  need node 'Node.js 22 or newer (or an older one with npm, which then fetches it)'
  need npm 'the package manager of Node.js'
  local major
  major=$(node -p 'process.versions.node.split(".")[0]')
  [ "$major" -lt 22 ] || return 0
  [ -x "$check/node/node_modules/node/bin/node" ] ||
    logged node npm install --prefix "$check/node" --no-audit --no-fund --no-save node@22
  export PATH=$check/node/node_modules/node/bin:$PATH
  # What is compiled must be so for this node, not for the one whose headers npm finds.
  for headers in "$check"/node/node_modules/node/node_modules/node-*; do
    [ ! -f "$headers/include/node/node_api.h" ] || export npm_config_nodedir=$headers
  done
}

# The PDS, PLC, AppView and Ozone of Bluesky, as one npm package for tests.
network_packages() {
  newer_node
  [ ! -f "$check/complete-$dev_env" ] || return 0
  echo "fetching @atproto/dev-env $dev_env into target/check (some minutes, 700 MB)"
  printf '{"private": true, "dependencies": {"@atproto/dev-env": "%s"}}\n' "$dev_env" >"$check/package.json"
  logged packages npm install --prefix "$check" --no-audit --no-fund
  sqlite() { (cd "$check" && node -e 'new (require("better-sqlite3"))(":memory:")' 2>/dev/null); }
  # It compiles where no binary can be fetched; some npm versions leave install scripts out.
  sqlite || (cd "$check/node_modules/better-sqlite3" && logged sqlite npx --yes node-gyp rebuild --release)
  sqlite || fail "better-sqlite3 does not load; see $check/sqlite.log"
  touch "$check/complete-$dev_env"
}

# The Tap of Bluesky's indigo, compiled: target/check/go/bin/tap.
real_tap() {
  [ ! -f "$check/tap-$tap_version" ] || return 0
  need go 'Go 1.26 or newer builds the real Tap'
  echo "building Tap $tap_version into target/check (some minutes)"
  GOPATH=$check/go GOFLAGS='-mod=mod -modcacherw' logged tap \
    go install "github.com/bluesky-social/indigo/cmd/tap@$tap_version"
  touch "$check/tap-$tap_version"
}

# logged NAME COMMAND: its output goes to a file, and is shown when it fails.
logged() {
  local log=$check/$1.log
  shift
  "$@" </dev/null >"$log" 2>&1 || { tail -n 20 "$log" >&2; fail "failed: $*; see $log"; }
}

# begin NAME PORT: an empty folder $out, and a broker of its own on $port.
begin() {
  out=$check/$1-run
  rm -rf "$out"
  mkdir -p "$out/tmp"
  port=$(scripts/kafka.sh free-port --port "$2")
  scripts/kafka.sh kill --clean --port "$port"
  scripts/kafka.sh start --version 4.3.1 --port "$port"
}

# run FILE ARGUMENTS: a check, in the background so that a signal is heard at once. It ends all that it has started.
run() {
  cp scripts/check/*.mjs "$check/" # node looks for packages beside the file
  TMPDIR=$out/tmp node --no-deprecation "$check/$1" "${@:2}" &
  node=$!
  wait "$node"
}

cleanup() {
  [ -z "${node:-}" ] || { kill "$node" && wait "$node"; } 2>/dev/null || true
  [ -z "${port:-}" ] || scripts/kafka.sh kill --clean --port "$port"
  rm -rf "${data:-}" "${out:+$out/tmp}"
}
