#!/usr/bin/env bash
# Instructions of the hot path for each frame, by valgrind, against examples/instructions.txt.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: scripts/instructions.sh [--write]

Counts the instructions of each stage of the hot path, and fails where a count is not the one in
examples/instructions.txt. With --write it writes that file.
USAGE
}

action=check
case ${1:-} in
  '') ;;
  --write) action='write' ;;
  -h | --help) usage; exit 0 ;;
  *) usage >&2; exit 2 ;;
esac

cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ "$(uname -sm)" != 'Linux x86_64' ]; then
  echo "instructions.sh: not counted: the figures are of Linux on x86-64, this is $(uname -sm)"
  exit 0
fi
scripts/deps.sh instructions

# Optimised as far as what is counted needs it, on top of the dependencies that tests use: a release is built for minutes
# longer. Incremental builds divide the code in other ways each time.
profile=profile.dev.package.atkafka
CARGO_INCREMENTAL=0 cargo run --quiet --example instructions --config "$profile.opt-level=2" \
  --config "$profile.codegen-units=4" --config "$profile.debug-assertions=false" \
  --config "$profile.overflow-checks=false" -- "$action"
