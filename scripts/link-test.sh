#!/usr/bin/env bash
# Runs real brokers, an edge and a hub, over bad links: two network namespaces joined by an emulator of ours on TUN devices
# (scripts/link/emulator.py). Prints a table of what was asked and what was measured.
#
# usage: scripts/link-test.sh [--quick] [--only CASE]... [--binary PATH] [--seed N] [--keep]
#
#   --quick   shortens what takes minutes, and says what
#   --only    thin     50 kbit/s, 600 ms round trip, 2 % loss each way: no false disconnect, and 80 % of a bare TCP copy
#             hole     a black hole in mid-stream: noticed within two heartbeats, and no local publish waits
#             cuts     24 cuts in two minutes
#             names    a name server that never answers
#             killed   the hub killed with -9 and started again, and the edge
#             stopped  a hub that stops reading
#             clock    an edge that begins in 1970, jumps to today under load, and back by a year
#             [default: all]
#   --binary  the program [default: the release build, made first if it is not there]
#   --seed    what is lost on the link and what is published [default: 1]
#   --keep    leaves the temporary folders: configurations, stores, logs, lines
#
# In every case each line published at the edge must be at the hub once, in order. It needs Linux, python3, iproute2 and
# util-linux, and root or user namespaces with /dev/net/tun; `clock` needs cc. It ends only what it started, and leaves
# nothing behind.
#
# Exit code: 0 when everything held, 1 when something did not, 2 for wrong arguments, 3 where this machine does not permit
# namespaces or TUN devices, or has no python3: then nothing was tested.
set -euo pipefail
export LC_ALL=C

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
tidegate='' options=() all=("$@")

usage() {
    sed -n '2,/^set /p' "${BASH_SOURCE[0]}" | sed -n 's/^# \{0,1\}//p'
}

while (($# > 0)); do
    case $1 in
        --quick | --keep) options+=("$1") ;;
        --only | --seed | --binary)
            if [[ -z ${2-} || ($1 == --seed && ! $2 =~ ^[0-9]{1,9}$) ]]; then
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
    echo "NOT PERMITTED on this machine, so nothing was tested: there is no python3" >&2
    exit 3
fi
# Who is not root may be it in a namespace of users.
if [[ $(id -u) != 0 && -z ${TIDEGATE_LINK_INSIDE-} ]] && unshare --user --map-root-user true 2>/dev/null; then
    TIDEGATE_LINK_INSIDE=yes exec unshare --user --map-root-user "${BASH_SOURCE[0]}" "${all[@]}"
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
PYTHONDONTWRITEBYTECODE=1 exec python3 "$root/scripts/link/cases.py" "$(realpath -- "$tidegate")" "${options[@]}"
