#!/usr/bin/env bash
# Real clients against the broker's WebSocket: the JavaScript client in Node and in headless Chromium, npm's ws, PyPI's
# websockets with a codec of its own, and kosoku (Autobahn's cases) against the same code as an echo server. Prints a table.
#
# usage: scripts/clients-test.sh [--only WORD]
#
#   --only   runs only the clients whose name holds WORD
#
# What it needs and does not find it installs: packages of npm and PyPI below target/clients, node, python3-venv and chromium
# by apt-get as root. What cannot be installed here is said in the table, not passed over.
#
# Exit code: 0 when all that could run passed, 1 when something did not, 2 for wrong arguments.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

only=''
if (($# > 0)); then
    [[ $1 == --only && -n ${2-} && $# == 2 ]] || {
        echo "usage: scripts/clients-test.sh [--only WORD]" >&2
        exit 2
    }
    only=$2
fi

home=${CARGO_TARGET_DIR:-target}/clients
mkdir -p "$home"
home=$(cd "$home" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

updated=no
# apt NAME COMMAND: there is COMMAND, or it is installed.
apt() {
    command -v "$2" >/dev/null && return 0
    [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null || return 1
    if [[ $updated == no ]]; then
        apt-get update >/dev/null 2>&1 || return 1
        updated=yes
    fi
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "$1" >/dev/null 2>&1 &&
        command -v "$2" >/dev/null
}

rows=() failed=0
row() {
    rows+=("$(printf '%-8s %5s  %s' "$1" "$2" "$3")")
    printf '%-8s %5s  %s\n' "$1" "$2" "$3"
}

# client NAME COMMAND...: one client; `missing` says what it would need.
missing=''
client() {
    local name=$1 started=$SECONDS log=$work/log
    shift
    if [[ -n $only && $name != *"$only"* ]]; then
        return
    fi
    if [[ -n $missing ]]; then
        row skipped - "$name: no $missing, and it cannot be installed here"
        return
    fi
    if timeout --kill-after=10 600 "$@" >"$log" 2>&1; then
        sed 's/^/    /' "$log" | grep -v -e '^    TAP' -e duration_ms -e '^    *\.\.\.$' -e '^    *---$' -e type: | tail -n 40
        row passed "$((SECONDS - started))s" "$name"
    else
        failed=1
        tail -n 60 "$log" >&2
        row FAILED "$((SECONDS - started))s" "$name"
    fi
}

echo "building"
cargo build --locked --bin tidegate --example ws_echo --quiet
TIDEGATE=$(cd "${CARGO_TARGET_DIR:-target}/debug" && pwd)/tidegate
export TIDEGATE

node=''
apt nodejs node || node='Node'
if [[ -z $node ]] && (($(node -p 'process.versions.node.split(".")[0]') < 20)); then
    node='Node of version 20 or later'
fi
# Before version 22 the global WebSocket is behind a flag.
flag=()
if [[ -z $node ]] && [[ $(node -p 'typeof WebSocket') == undefined ]]; then
    flag=(--experimental-websocket)
fi

missing=$node
client "clients/js in Node, with its own WebSocket" node "${flag[@]}" --test clients/js/test/

if [[ -z $missing && ! -d $home/node_modules/ws ]]; then
    { apt npm npm && npm install --silent --no-save --prefix "$home" ws >/dev/null 2>&1; } || missing="package ws of npm"
fi
client "clients/js in Node, with npm's ws" env "WS=$home/node_modules/ws/wrapper.mjs" node --test clients/js/test/client.test.js

missing=$node
[[ -n $missing ]] || apt chromium chromium || missing=Chromium
client "clients/js in headless Chromium" node scripts/clients/browser.mjs chromium

missing=''
if [[ ! -x $home/venv/bin/kosoku ]]; then
    { apt python3 python3 && apt python3-venv python3 && python3 -m venv "$home/venv" &&
        "$home/venv/bin/pip" install --quiet websockets kosoku; } >/dev/null 2>&1 || missing="package websockets or kosoku of PyPI"
fi
client "PyPI's websockets, from proto/frame.md alone" "$home/venv/bin/python" scripts/clients/frames.py "$TIDEGATE"
client "kosoku: Autobahn's cases" "$home/venv/bin/python" scripts/clients/kosoku.py "$home/venv/bin/kosoku" \
    "$(dirname "$TIDEGATE")/examples/ws_echo" "$work/reports"

printf '\n%-8s %5s  %s\n' RESULT TIME CLIENT
printf '%s\n' "${rows[@]}"
exit "$failed"
