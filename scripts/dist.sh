#!/usr/bin/env bash
# A release: target/dist/atkafka-VERSION-TARGET.tar.gz and its checksum.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: [VARIABLE=...] scripts/dist.sh

  BIN   a program to pack as it is; without, one is built with OpenSSL and zlib inside, in target/vendored
  OUT   target/dist

The same program and commit give the same bytes.
USAGE
}

case ${1:-} in
  '') ;;
  -h | --help) usage; exit 0 ;;
  *) usage >&2; exit 2 ;;
esac

[ -z "${BIN:-}" ] || BIN=$(realpath "$BIN")
[ -z "${OUT:-}" ] || OUT=$(realpath -m "$OUT")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
OUT=${OUT:-$PWD/target/dist}
if [ -z "${BIN:-}" ]; then
  scripts/deps.sh dist
  # In a folder of its own: `make install` must never find a program there whose OpenSSL is not the system's.
  target=${CARGO_TARGET_DIR:-target}/vendored
  cargo build --release --locked -p atkafka --bin atkafka --features vendored --target-dir "$target"
  BIN=$target/release/atkafka
fi

# of the last commit; of a source without git, some time long ago
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 1000000000)}
version=$("$BIN" --version | cut -d' ' -f2)
target=$(rustc -vV | sed -n 's/^host: //p')
name=atkafka-$version-$target
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
dir=$stage/$name

put() { install -D -m "$1" "$2" "$dir/$3"; }
put 755 "$BIN" atkafka
strip --strip-debug "$dir/atkafka" # function names stay, for backtraces
"$BIN" man | put 644 /dev/stdin man/atkafka.1
for shell in bash zsh fish; do "$BIN" completions $shell | put 644 /dev/stdin completions/atkafka.$shell; done
for file in packaging/systemd/*; do put 644 "$file" "$file"; done
put 755 scripts/install.sh scripts/install.sh
scripts/install.sh --files | while read -r file; do put 644 "$file" "$file"; done
(cd "$dir" && find . -type f -printf '%P\n' | LC_ALL=C sort | xargs -d '\n' sha256sum) >"$stage/sums"
put 644 "$stage/sums" SHA256SUMS

mkdir -p "$OUT"
tar --create --directory "$stage" --format=ustar --sort=name --mtime="@$epoch" --owner=0 --group=0 --numeric-owner \
  --mode=u+rwX,go+rX,go-w "$name" | gzip --no-name -9 >"$OUT/$name.tar.gz"
(cd "$OUT" && sha256sum "$name.tar.gz" >SHA256SUMS)
echo "$OUT/$name.tar.gz"
ldd "$dir/atkafka" | awk '{ print "  needs " $1 }'
