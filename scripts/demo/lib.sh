# shellcheck shell=bash
# What the demos share. They set bin, frames, out, relay_port and metrics_port, and end what they started in a trap.

title() { printf '\n== %s\n' "$*"; }

# http PORT PATH: the body of an answer; curl need not be there.
http() (
  exec 3<>"/dev/tcp/127.0.0.1/$1"
  printf 'GET %s HTTP/1.0\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n' "$2" >&3
  timeout 5 sed '1,/^\r$/d' <&3
)

# shellcheck disable=SC2154 # set by the demo
metric() { http "$metrics_port" /metrics 2>/dev/null | awk -v m="$1" '$0 ~ "^"m"[{ ]" {n += $NF} END {print n + 0}'; }

stop() { # stop PID: in order; a program that does not end in 10 s is killed
  kill -TERM "$1" 2>/dev/null || return 0
  for _ in {1..100}; do
    kill -0 "$1" 2>/dev/null || return 0
    sleep 0.1
  done
  kill -KILL "$1" 2>/dev/null || true
}

# start_relay OPTIONS...: the recorded frames as a relay, from the first one; its pid is in relay
start_relay() {
  # shellcheck disable=SC2154 # set by the demo
  "$bin"/loopback-relay --listen "127.0.0.1:$relay_port" --file "$frames" --from-start "$@" >"$out/relay.log" 2>&1 &
  relay=$!
  for _ in {1..50}; do
    if (: <"/dev/tcp/127.0.0.1/$relay_port") 2>/dev/null; then return; fi
    kill -0 "$relay" 2>/dev/null || { cat "$out/relay.log" >&2; exit 1; }
    sleep 0.1
  done
}
