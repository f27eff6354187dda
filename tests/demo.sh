#!/bin/bash
# Shows the soft device with the distribution's own programs: what it looks like, then two pairs of processes.
# Usage: demo.sh path/to/gaudi-soft
set -u

soft=${1:-target/release/gaudi-soft}
log=$(mktemp -d)
fabric=demo-$$
server=

end() {
    if [ -n "$server" ]; then kill "$server" 2>/dev/null; fi
    "$soft" clean --fabric "$fabric" >/dev/null 2>&1
    rm -rf "$log"
}
trap end EXIT

if [ -t 1 ]; then bold=$'\033[1m' plain=$'\033[0m'; else bold= plain=; fi
title() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }

run() { timeout 60 "$soft" run --fabric "$fabric" -- "$@"; }

# A port on which nobody answers.
free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 20000))
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    echo "$port"
}

# pair PROGRAM ARGS: a server, then a client whose output is shown; both must succeed.
pair() {
    local port status=0 hex
    port=$(free_port)
    title "$* (two processes)"
    run "$@" -p "$port" >"$log/server" 2>&1 &
    server=$!
    # Looking into the table of sockets does not disturb the server as a connection would.
    hex=$(printf ':%04X 0*:0000 0A' "$port")
    for _ in $(seq 200); do
        if grep -q "$hex" /proc/net/tcp /proc/net/tcp6 2>/dev/null; then break; fi
        if ! kill -0 "$server" 2>/dev/null; then break; fi
        sleep 0.05
    done
    run "$@" -p "$port" localhost 2>&1 || status=$?
    wait "$server" || status=$?
    server=
    if [ "$status" != 0 ]; then
        printf '\nThis failed (%s). The other process said:\n' "$status"
        cat "$log/server"
        echo "'$soft doctor' may know why."
        exit 1
    fi
}

if ! "$soft" doctor >"$log/doctor" 2>&1; then
    title "gaudi-soft doctor"
    cat "$log/doctor"
    exit 1
fi

title "ibv_devinfo -d hbl_0"
run ibv_devinfo -d hbl_0 || exit 1
pair ib_write_bw -d hbl_0 -F
pair ibv_rc_pingpong -d hbl_0 -c

title "That was libibverbs of this system and $(basename "$soft") $("$soft" --version | cut -d' ' -f2); try: $soft run -- YOUR PROGRAM"
