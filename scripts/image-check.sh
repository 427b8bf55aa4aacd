#!/usr/bin/env bash
# Builds the Dockerfile where neither an engine nor a registry of images is: buildah, on base images made here of Debian's
# packages and this machine's Rust. Then the program is run out of the image, as the image's user.
set -euo pipefail

case ${1:-} in
  '') ;;
  -h | --help)
    echo 'usage: scripts/image-check.sh   (as root, on Debian; some 10 minutes and 4 GB in target/image the first time)'
    exit 0
    ;;
  *) echo 'usage: scripts/image-check.sh' >&2; exit 2 ;;
esac

cd "$(dirname "${BASH_SOURCE[0]}")/.."
die() { echo "image-check.sh: $*" >&2; exit 1; }
[ "$(id -u)" = 0 ] || die 'needs root: it makes file systems with owners'
packages=()
for tool in buildah debootstrap; do command -v "$tool" >/dev/null || packages+=("$tool"); done
if [ ${#packages[@]} -gt 0 ]; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" </dev/null >/dev/null
fi

out=$PWD/target/image
mkdir -p "$out"
image=localhost/atkafka:check
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=vfs
buildah() { command buildah --root "$out/storage" --runroot "$out/run" "$@"; }
host=(--network host)

# The tags that the Dockerfile names.
rust=$(sed -nE 's/^FROM (rust:[^ ]+).*/\1/p' Dockerfile)
debian=$(sed -nE 's/^FROM (debian:[^ ]+).*/\1/p' Dockerfile)
if [ -z "$rust" ] || [ -z "$debian" ]; then die 'the Dockerfile names other base images than this knows'; fi
toolchain=$(rustc --print sysroot)
[[ $rust = rust:$(rustc --version | cut -d' ' -f2 | cut -d. -f1,2)-* ]] || echo "note: $(rustc --version) stands for $rust"

if ! buildah images -q "docker.io/library/$debian" >/dev/null 2>&1; then
  echo "== $debian, of packages"
  rm -rf "$out/debian"
  debootstrap --variant=minbase bookworm "$out/debian" http://deb.debian.org/debian >"$out/debootstrap.log" 2>&1 ||
    die "debootstrap failed, see $out/debootstrap.log"
  rm -rf "$out/debian"/var/cache/apt/archives/*.deb "$out/debian"/var/lib/apt/lists/*
  c=$(buildah from scratch)
  buildah copy -q "$c" "$out/debian" / >/dev/null
  buildah commit -q --rm "$c" "docker.io/library/$debian" >/dev/null
  rm -rf "$out/debian"
fi
if ! buildah images -q "docker.io/library/$rust" >/dev/null 2>&1; then
  echo "== $rust, of that and $toolchain"
  c=$(buildah from --pull-never "docker.io/library/$debian")
  buildah run "${host[@]}" "$c" -- sh -c \
    'apt-get update -qq && apt-get install -y -qq --no-install-recommends ca-certificates gcc libc6-dev' >"$out/rust.log" 2>&1 ||
    die "see $out/rust.log"
  for part in bin/cargo bin/rustc lib; do
    buildah copy -q "$c" "$toolchain/$part" "/usr/local/rust/$part" >/dev/null
  done
  # This machine's roots, behind whatever it reaches crates.io by.
  buildah copy -q "$c" /etc/ssl/certs/ca-certificates.crt /usr/local/rust/ca.crt >/dev/null
  buildah config --env CARGO_HTTP_CAINFO=/usr/local/rust/ca.crt --env PATH=/usr/local/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$c"
  buildah commit -q --rm "$c" "docker.io/library/$rust" >/dev/null
fi

echo '== build'
buildah build --pull-never --layers --format docker "${host[@]}" --build-arg VERSION=check --tag "$image" . >"$out/build.log" 2>&1 ||
  { tail -n 30 "$out/build.log" >&2; die "the build failed, see $out/build.log"; }

echo '== look'
c=$(buildah from --pull-never "$image")
trap 'buildah rm "$c" >/dev/null' EXIT
config=$(buildah inspect --type image "$image" | tr -d ' \n')
for part in '"User":"10001:10001"' '"StopSignal":"SIGTERM"' '"Entrypoint":["atkafka"]' '"6009/tcp"' '"CMD","atkafka","healthcheck"' \
  'STATE_DIRECTORY=/var/lib/atkafka' '"org.opencontainers.image.version":"check"'; do
  grep -qF -- "$part" <<<"$config" || die "not in the image's configuration: $part, but $config"
done
version=$(sed -nE 's/^version = "(.*)"/\1/p' Cargo.toml | head -n 1)
# Its user, its environment; nothing of the host but the network.
run() { buildah run --network host "$c" -- "$@"; }
[ "$(run atkafka --version)" = "atkafka $version" ] || die "the image's program is not version $version"
[ "$(run id -u)" = 10001 ] || die 'not run as 10001'
run sh -c 'test "$(pwd)" = /var/lib/atkafka && touch here && rm here' || die '/var/lib/atkafka cannot be written'
if run sh -c 'touch /usr/local/bin/x' 2>/dev/null; then die 'the program could be overwritten by its own user'; fi
run test -s /etc/ssl/certs/ca-certificates.crt || die 'no CA roots'
run grep -q librdkafka /usr/share/doc/atkafka/third-party-notices.txt || die 'no third-party notices'
# At work on standard output's side: nothing to read there, and alive.
port=$((20000 + RANDOM % 10000))
buildah run --network host --env METRICS_LISTEN_ADDRESS="127.0.0.1:$port" "$c" -- \
  timeout 20 atkafka firehose relay --relay-host ws://127.0.0.1:9 >"$out/program.log" 2>&1 &
alive=no
for _ in {1..50}; do
  if buildah run --network host --env METRICS_LISTEN_ADDRESS="127.0.0.1:$port" "$c" -- atkafka healthcheck >/dev/null 2>&1; then alive=yes; break; fi
  sleep 0.2
done
wait
[ "$alive" = yes ] || { cat "$out/program.log" >&2; die 'the health check of the image does not pass'; }

m=$(buildah mount "$c")
echo "image: $(du -sm "$m" | cut -f1) MB unpacked, of it the program $(du -m "$m/usr/local/bin/atkafka" | cut -f1) MB"
buildah umount "$c" >/dev/null
echo 'image-check: passed'
