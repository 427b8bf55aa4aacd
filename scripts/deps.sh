#!/usr/bin/env bash
# What building and testing need. Silent when all is there.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: scripts/deps.sh build|test|instructions|deploy|dist

Checks for what building (or testing and the demo, counting instructions, what is deployed, a release) needs. What is
missing is installed when run by root on Debian or Ubuntu; else the command that installs it is printed.
USAGE
}

case ${1:-} in
  build | test | instructions | deploy | dist) ;;
  -h | --help) usage; exit 0 ;;
  *) usage >&2; exit 2 ;;
esac

have() { command -v "$1" >/dev/null 2>&1; }
library() { have pkg-config && pkg-config --exists "$1"; }
java17() { have java && [[ $(java -version 2>&1) =~ version\ \"([0-9]+) ]] && [ "${BASH_REMATCH[1]}" -ge 17 ]; }

# The Java to install: any from 17 on. Debian 12 has 17, Debian 13 has 21 and 25; the default of Ubuntu 22.04 is too old.
# `apt-cache show` succeeds for a package that is only referred to, so its candidate is what counts.
jre() {
  local package
  for package in openjdk-17-jre-headless openjdk-21-jre-headless openjdk-25-jre-headless; do
    if LC_ALL=C apt-cache policy "$package" 2>/dev/null | grep -q '^  Candidate: [0-9]'; then
      echo "$package"
      return
    fi
  done
  echo default-jre-headless
}

# missing KIND: print the Debian packages of what is not there.
missing() {
  if [ "$1" = deploy ]; then
    have promtool || echo prometheus
    return 0
  fi
  have gcc || echo gcc
  have g++ || echo g++
  have make || echo make
  have pkg-config || echo pkg-config
  library openssl || echo libssl-dev
  library zlib || echo zlib1g-dev
  if [ "$1" = dist ]; then
    # OpenSSL is built, by Perl.
    perl -MIPC::Cmd -MFindBin -e 1 2>/dev/null || echo perl
    have strip || echo binutils
  fi
  if [ "$1" = instructions ]; then
    have valgrind || echo valgrind
  fi
  [ "$1" = test ] || return 0
  java17 || jre
  have mvn || echo maven
  have openssl || echo openssl
  have flock || echo util-linux
  have kcat || echo kcat
}

if ! have cargo; then
  echo 'deps.sh: cargo is missing: install Rust 1.89 or newer by rustup (https://rustup.rs, or Debian 13: apt-get install rustup && rustup default stable)' >&2
  exit 1
fi
# "rustc 1.89.0 (...)"
rust=$(rustc --version 2>/dev/null || true)
rust=${rust#rustc } major=${rust%%.*} minor=${rust#*.} minor=${minor%%.*}
if [[ $major.$minor =~ ^1\.[0-9]+$ ]] && [ "$minor" -lt 89 ]; then
  echo "deps.sh: Rust $major.$minor is too old: 1.89 or newer is needed, by rustup (https://rustup.rs)" >&2
  exit 1
fi

packages=$(missing "$1" | paste -sd ' ')
[ -n "$packages" ] || exit 0

if [ "$(id -u)" = 0 ] && have apt-get; then
  apt-get update -qq >&2
  packages=$(missing "$1" | paste -sd ' ')
  # shellcheck disable=SC2086 # packages are words
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages </dev/null >&2
  packages=$(missing "$1" | paste -sd ' ')
  [ -n "$packages" ] || exit 0
  echo "deps.sh: still missing after apt-get install: $packages" >&2
else
  echo "deps.sh: missing; install with: sudo apt-get update && sudo apt-get install -y $packages" >&2
fi
exit 1
