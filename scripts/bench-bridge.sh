#!/usr/bin/env bash
# Measures the bridge: a backlog that drains from an edge to a hub over the loopback beside two Mosquittos, memory and CPU of
# the edge, compression of telemetry, and what a dead upstream costs local publishers. Prints every bar in markdown.
#
# usage: scripts/bench-bridge.sh [--quick] [--only drain|compression|latency]... [--rounds N] [--binary PATH] [--seed N] [--keep]
#
#   --quick   one round with 50,000 messages instead of five with 500,000
#   --binary  the program [default: the release build, made first if it is not there]
#   --seed    of payloads and telemetry [default: 1]
#   --keep    leaves the temporary folder
#
# drain: lines of 256 letters by chance (nothing for LZ4), contract disk on both sides, are queued at the edge while the hub is away;
# the hub starts; from the first message seen there to the last. Mosquitto the same, QoS 1, unbounded queues, nothing synced.
# CPU is user and system time in /proc of the edge's process, memory its VmRSS and VmHWM.
# compression: JSON of 20 devices with drifting values; bytes of records over bytes of batches in `bridge status`.
# latency: `tidegate bench` with 1 publisher and 1 message in flight, by turns against an edge whose upstream is a black hole (an
# emulated link; without namespaces somebody who accepts and says nothing) and a broker without a bridge.
#
# Needs Linux, python3, and mosquitto for the comparison. Exit code: 0 when all was measured, 1 when something failed, 2 for wrong
# arguments; bars that are not met are no failure.
set -euo pipefail
export LC_ALL=C

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
tidegate='' options=()

usage() {
    sed -n '2,/^set /p' "${BASH_SOURCE[0]}" | sed -n 's/^# \{0,1\}//p'
}

while (($# > 0)); do
    case $1 in
        --quick | --keep) options+=("$1") ;;
        --only | --seed | --rounds | --binary)
            if [[ -z ${2-} || ($1 == --@(seed|rounds) && ! $2 =~ ^[0-9]{1,9}$) ]]; then
                usage >&2
                exit 2
            fi
            if [[ $1 == --binary ]]; then tidegate=$2; else options+=("$1" "$2"); fi
            shift
            ;;
        -h | --help)
            usage
            exit 0
            ;;
        *)
            usage >&2
            exit 2
            ;;
    esac
    shift
done
if ! command -v python3 >/dev/null; then
    echo "python3 is not there" >&2
    exit 1
fi
if [[ -z $tidegate ]]; then
    tidegate=${CARGO_TARGET_DIR:-$root/target}/release/tidegate
    if [[ ! -x $tidegate ]]; then
        cargo build --release --locked --quiet --manifest-path "$root/Cargo.toml"
    fi
fi
if [[ ! -x $tidegate ]]; then
    echo "$tidegate is no program" >&2
    exit 2
fi
# Python keeps no compiled copies beside the sources.
PYTHONDONTWRITEBYTECODE=1 exec python3 "$root/scripts/link/bench.py" "$(realpath -- "$tidegate")" "${options[@]}"
