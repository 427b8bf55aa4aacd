#!/usr/bin/env bash
# The program, its unit, settings, manual page, completions, documents, files for compose and Kubernetes, dashboard and
# alerts into the system, or out of it again.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: [VARIABLE=...] scripts/install.sh [--uninstall | --files]

  PREFIX      /usr/local      program, manual page, completions, documents, compose files, dashboard and alerts
  SYSCONFDIR  /etc            settings of the unit, SYSCONFDIR/atkafka/*.env: existing ones are kept
  UNITDIR     PREFIX/lib/systemd/system for /usr and /usr/local, else SYSCONFDIR/systemd/system
  DESTDIR                     put before all of these, for packages
  BIN                         the program, if not ./atkafka (of a release) or target/release/atkafka. The latter is built
                              first if it is older than its source, by the user who owns the source

  --files     only list the documents and other files that it takes along; a release has the same
USAGE
}

action=install
case ${1:-} in
  '') ;;
  --uninstall | --files) action=${1#--} ;;
  -h | --help) usage; exit 0 ;;
  *) usage >&2; exit 2 ;;
esac

[ -z "${BIN:-}" ] || BIN=$(realpath "$BIN")
cd "$(dirname "${BASH_SOURCE[0]}")/.."

files() {
  printf '%s\n' CHANGELOG.md LICENSE README.md docker-compose*.yml packaging/services.yml packaging/third-party-notices.txt
  find docs schema packaging/grafana packaging/kubernetes packaging/prometheus -type f ! -name '*.test.yml'
}

# stale PROGRAM: whether a source is newer. Cargo knows better, but need not be there.
stale() { [ ! -x "$1" ] || [ -n "$(find Cargo.toml Cargo.lock build.rs schema src -newer "$1" -print -quit)" ]; }

# Root compiles only what belongs to root: else the owner of the source does, with the Rust of their login shell.
build() {
  local owner target=${CARGO_TARGET_DIR:-$PWD/target}
  owner=$(stat -c %U .)
  echo "install.sh: $BIN is missing or older than its source: building it, as $owner"
  if [ "$(id -u)" = 0 ] && [ "$owner" != root ]; then
    # It is in sbin, which is not in everybody's PATH.
    PATH=$PATH:/usr/sbin:/sbin runuser --login "$owner" --command "cd '$PWD' && CARGO_TARGET_DIR='$target' scripts/build.sh" </dev/null ||
      { echo "install.sh: the build failed; run make build as $owner, then make install as root" >&2; exit 1; }
  else
    scripts/build.sh
  fi
}

PREFIX=${PREFIX:-/usr/local}
SYSCONFDIR=${SYSCONFDIR:-/etc}
case $PREFIX in
  /usr | /usr/local) UNITDIR=${UNITDIR:-$PREFIX/lib/systemd/system} ;;
  *) UNITDIR=${UNITDIR:-$SYSCONFDIR/systemd/system} ;; # systemd looks nowhere else
esac
root=${DESTDIR:-}
share=$root$PREFIX/share
doc=$share/doc/atkafka
settings=$root$SYSCONFDIR/atkafka
unit=$root$UNITDIR/atkafka@.service
# place FILE: where it goes. The compose files find what they mount beside them.
place() {
  case $1 in
    docker-compose* | packaging/grafana/* | packaging/kubernetes/* | packaging/prometheus/* | packaging/services.yml) echo "$share/atkafka/$1" ;;
    packaging/*) echo "$doc/${1##*/}" ;;
    *) echo "$doc/$1" ;;
  esac
}

if [ "$action" = files ]; then
  files | LC_ALL=C sort
  exit
fi
if [ "$action" = uninstall ]; then
  rm -f "$root$PREFIX/bin/atkafka" "$unit" "$share/man/man1/atkafka.1" "$share/bash-completion/completions/atkafka" \
    "$share/zsh/site-functions/_atkafka" "$share/fish/vendor_completions.d/atkafka.fish"
  files | while read -r file; do rm -f "$(place "$file")"; done
  for file in packaging/systemd/*.env; do
    name=${file##*/}
    rm -f "$doc/examples/$name"
    if cmp -s "$file" "$settings/$name"; then
      rm -f "$settings/$name"
    elif [ -e "$settings/$name" ]; then
      echo "kept, since it was changed: $settings/$name"
    fi
  done
  for dir in "$doc" "$share/atkafka" "$settings"; do
    [ ! -d "$dir" ] || find "$dir" -depth -type d -empty -delete
  done
  exit 0
fi

if [ -z "${BIN:-}" ]; then
  BIN=${CARGO_TARGET_DIR:-target}/release/atkafka
  if [ -x ./atkafka ]; then BIN=./atkafka; elif stale "$BIN"; then build; fi
fi
[ -x "$BIN" ] || { echo "install.sh: $BIN is not there: make build" >&2; exit 1; }
put() { install -D -m "$1" "$2" "$3"; }
put 755 "$BIN" "$root$PREFIX/bin/atkafka"
# Function names stay, for backtraces.
if command -v strip >/dev/null; then strip --strip-debug "$root$PREFIX/bin/atkafka"; fi
sed -e "s|/usr/local/bin/|$PREFIX/bin/|" -e "s|=/etc/atkafka/|=$SYSCONFDIR/atkafka/|" packaging/systemd/atkafka@.service |
  put 644 /dev/stdin "$unit"
"$BIN" man | put 644 /dev/stdin "$share/man/man1/atkafka.1"
"$BIN" completions bash | put 644 /dev/stdin "$share/bash-completion/completions/atkafka"
"$BIN" completions zsh | put 644 /dev/stdin "$share/zsh/site-functions/_atkafka"
"$BIN" completions fish | put 644 /dev/stdin "$share/fish/vendor_completions.d/atkafka.fish"
files | while read -r file; do put 644 "$file" "$(place "$file")"; done
for file in packaging/systemd/*.env; do
  name=${file##*/}
  put 644 "$file" "$doc/examples/$name"
  # Passwords may come into them.
  if [ -e "$settings/$name" ]; then echo "kept: $settings/$name"; else put 600 "$file" "$settings/$name"; fi
done
if [ -z "$root" ]; then
  echo "installed $PREFIX/bin/atkafka; documents: $PREFIX/share/doc/atkafka; compose files, dashboard, alerts: $PREFIX/share/atkafka"
  echo "next: edit $SYSCONFDIR/atkafka/relay.env, systemctl daemon-reload, systemctl enable --now atkafka@relay"
fi
