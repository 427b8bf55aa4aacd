#!/usr/bin/env bash
# A real Ozone behind a real PDS, through atkafka into a real Kafka: every event of Ozone's own table arrives, whatever happens.
set -euo pipefail

case ${1:-} in
  '') ;;
  -h | --help)
    cat <<'USAGE'
usage: scripts/ozone-check.sh   (takes about eight minutes, the first time five more)

environment: OZONE_CHECK_EVENTS (2000), OZONE_CHECK_RATE events a second (60)
needs: what scripts/deps.sh test does; node and npm (better-sqlite3 is compiled where its binary cannot be fetched, which takes
python3, make and g++); PostgreSQL and Redis (apt-get install postgresql redis-server), of which it starts servers of its own
USAGE
    exit 0
    ;;
  *) echo 'usage: scripts/ozone-check.sh' >&2; exit 2 ;;
esac

cd "$(dirname "${BASH_SOURCE[0]}")/.."
mkdir -p target/check
# shellcheck source=scripts/check/setup.sh
. scripts/check/setup.sh
scripts/deps.sh test
need redis-server 'apt-get install redis-server'
postgres=$(find /usr/lib/postgresql/*/bin -name postgres 2>/dev/null | sort -V | tail -n 1)
postgres=${postgres:-$(command -v postgres || fail 'postgres is missing: apt-get install postgresql')}
[ "$(id -u)" != 0 ] || id postgres >/dev/null || fail 'PostgreSQL refuses to run as root, and there is no user postgres'
network_packages
scripts/build.sh

trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
begin ozone 29492
data=$(mktemp -d) # where the user of PostgreSQL may read
run ozone.mjs "$out" "$port" "$data" "${postgres%/*}"
