#!/usr/bin/env bash
# The program, its unit, settings, manual page and completions into the system, or out of it again.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: [VARIABLE=...] scripts/install.sh [--uninstall]

  PREFIX      /usr/local      program, manual page, completions, documents
  SYSCONFDIR  /etc            settings of the unit, SYSCONFDIR/atkafka/*.env: existing ones are kept
  UNITDIR     PREFIX/lib/systemd/system for /usr and /usr/local, else SYSCONFDIR/systemd/system
  DESTDIR                     put before all of these, for packages
  BIN                         the program, if not ./atkafka (of a release) or target/release/atkafka
USAGE
}

uninstall=false
case ${1:-} in
  '') ;;
  --uninstall) uninstall=true ;;
  -h | --help) usage; exit 0 ;;
  *) usage >&2; exit 2 ;;
esac

[ -z "${BIN:-}" ] || BIN=$(realpath "$BIN")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ -z "${BIN:-}" ]; then
  BIN=${CARGO_TARGET_DIR:-target}/release/atkafka
  [ ! -x ./atkafka ] || BIN=./atkafka
fi
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

if $uninstall; then
  rm -f "$root$PREFIX/bin/atkafka" "$unit" "$share/man/man1/atkafka.1" "$share/bash-completion/completions/atkafka" \
    "$share/zsh/site-functions/_atkafka" "$share/fish/vendor_completions.d/atkafka.fish" "$doc/README.md" "$doc/LICENSE"
  for file in packaging/systemd/*.env; do
    name=${file##*/}
    rm -f "$doc/examples/$name"
    if cmp -s "$file" "$settings/$name"; then
      rm -f "$settings/$name"
    elif [ -e "$settings/$name" ]; then
      echo "kept, since it was changed: $settings/$name"
    fi
  done
  rmdir --ignore-fail-on-non-empty "$doc/examples" "$doc" "$settings" 2>/dev/null || true
  exit 0
fi

[ -x "$BIN" ] || { echo "install.sh: $BIN is not there: make build" >&2; exit 1; }
put() { install -D -m "$1" "$2" "$3"; }
put 755 "$BIN" "$root$PREFIX/bin/atkafka"
sed -e "s|/usr/local/bin/|$PREFIX/bin/|" -e "s|=/etc/atkafka/|=$SYSCONFDIR/atkafka/|" packaging/systemd/atkafka@.service |
  put 644 /dev/stdin "$unit"
"$BIN" man | put 644 /dev/stdin "$share/man/man1/atkafka.1"
"$BIN" completions bash | put 644 /dev/stdin "$share/bash-completion/completions/atkafka"
"$BIN" completions zsh | put 644 /dev/stdin "$share/zsh/site-functions/_atkafka"
"$BIN" completions fish | put 644 /dev/stdin "$share/fish/vendor_completions.d/atkafka.fish"
put 644 README.md "$doc/README.md"
put 644 LICENSE "$doc/LICENSE"
for file in packaging/systemd/*.env; do
  name=${file##*/}
  put 644 "$file" "$doc/examples/$name"
  # Passwords may come into them.
  if [ -e "$settings/$name" ]; then echo "kept: $settings/$name"; else put 600 "$file" "$settings/$name"; fi
done
[ -n "$root" ] || echo "installed; next: edit $SYSCONFDIR/atkafka/relay.env, systemctl daemon-reload, systemctl enable --now atkafka@relay"
