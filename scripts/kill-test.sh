#!/usr/bin/env bash
# Publishes each line of a real text file while the broker is killed with -9 in the middle, again and again, and
# compares what a consumer wrote meanwhile with the file, byte for byte.
#
# usage: scripts/kill-test.sh [FILE] [--kills N] [--seed N] [--binary PATH] [--keep]
#
#   FILE      the text; without it one of 1,500,000 lines or more is made from texts that are on this machine anyway
#   --kills   how often the broker is killed [default: 5]
#   --seed    picks the places of the kills; the same seed picks the same places [default: another each time]
#   --binary  the program [default: the release build, made first if needed]
#   --keep    leaves the temporary folder: input, copy, store and logs
#
# `pub --lines` runs at full speed over TCP, `consume --out` beside it over the Unix socket; both run through all kills.
# A kill is due when `pub` has read the file up to a place picked in the kill's own share of it, so every kill falls
# while lines are still to be published, however fast the machine is. The script fails unless every kill fell there,
# each cut the connection of `pub`, the copy equals the file and the store is whole at the end.
#
# Exit code: 0 when all that holds, 1 when it does not, 2 for wrong arguments. Needs Linux (/proc) and bash 5.
set -euo pipefail
export LC_ALL=C

readonly LINES_MIN=1500000
# Longest time for everything after the input is there, in seconds.
readonly SECONDS_MAX=600
# `consume` ends when nothing came for so long: what is delivered too much must have the time to come.
readonly IDLE=3s

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
file='' kills=5 seed=$((SRANDOM % 32768)) tidegate='' keep=no
broker='' publisher='' consumer='' work=''

usage() {
    echo "usage: scripts/kill-test.sh [FILE] [--kills N] [--seed N] [--binary PATH] [--keep]" >&2
    exit 2
}

fail() {
    echo "FAILED: $*" >&2
    local log
    for log in "$work"/*.log; do
        if [[ -s $log ]]; then
            echo "-- the end of ${log##*/}:" >&2
            tail -n 5 "$log" >&2
        fi
    done
    exit 1
}

clean_up() {
    local pid
    for pid in $publisher $consumer $broker; do
        kill -KILL "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    if [[ -n $work && $keep == yes ]]; then
        echo "left in $work"
    elif [[ -n $work ]]; then
        rm -rf "$work"
    fi
}

now_ms() {
    local now=$EPOCHREALTIME
    echo $((${now/./} / 1000))
}

# Waits a moment; ends the script when its time is over.
pause() {
    if ((SECONDS - started > SECONDS_MAX)); then
        fail "not done within $SECONDS_MAX s"
    fi
    sleep 0.003
}

# number NAME TEXT: a number of a JSON object.
number() {
    if [[ $2 =~ \"$1\":([0-9]+) ]]; then
        echo "${BASH_REMATCH[1]}"
    else
        fail "no \"$1\" in: $2"
    fi
}

# Real text: package lists and descriptions, documentation, word lists, Rust sources.
collect_text() {
    local folder
    for folder in /usr/share/dict /usr/share/doc /usr/share/common-licenses /usr/share/i18n/locales \
        /usr/share/perl /usr/lib/python3; do
        if [[ -d $folder ]]; then
            # Ends with a line end whatever the last file ends with.
            find "$folder" -type f ! -name '*.gz' ! -name '*.pyc' ! -name '*.so*' -size -2000k -print0 2>/dev/null |
                sort -z | xargs -0 -r cat 2>/dev/null || true
            echo
        fi
    done
    cat /var/lib/dpkg/info/*.list 2>/dev/null || true
    if command -v apt-cache >/dev/null; then
        apt-cache dumpavail 2>/dev/null || true
    fi
    folder=${CARGO_HOME:-$HOME/.cargo}/registry/src
    if [[ -d $folder ]]; then
        find "$folder" -name '*.rs' -size -2000k -print0 | sort -z |
            xargs -0 -r cat 2>/dev/null | head -n 500000 || true
    fi
}

# Makes $work/input.txt and says what of.
make_input() {
    local text=$work/text.txt pass=1
    {
        # Some lines of 4 kB to 300 kB, of the first real text there is.
        local bytes
        for bytes in 4000 40000 300000; do
            cat /usr/share/common-licenses/* "$root"/src/*/*.rs 2>/dev/null | head -c "$bytes" | tr '\n' ' ' || true
            echo
        done
        printf 'Ein Gerät mißt 21,5 °C — 温度\n\n'
        collect_text
        echo
    } >"$text"
    cp "$text" "$work/input.txt"
    while (($(wc -l <"$work/input.txt") < LINES_MIN)); do
        pass=$((pass + 1))
        # Numbered, so that no two passes have the same lines; empty ones stay empty.
        sed "/./s/^/$pass: /" "$text" >>"$work/input.txt"
    done
    rm "$text"
    echo "input: documentation, package lists and sources of this machine, $pass times over"
}

describe_input() {
    lines=$(wc -l <"$input")
    size=$(stat -c %s "$input")
    local longest empty foreign
    longest=$(awk '{ if (length > most) most = length } END { print most + 0 }' "$input")
    empty=$(grep -c '^$' "$input" || true)
    foreign=$(grep -c -a $'[^\t -~]' "$input" || true)
    echo "input: $lines lines, $size bytes; $empty empty, $foreign with more than ASCII, the longest of $longest bytes"
}

start_broker() {
    "$tidegate" serve --data "$work/data" --listen "127.0.0.1:$port" >>"$work/broker.log" 2>&1 &
    broker=$!
    until grep -qs "\"pid\":${broker}[,}]" "$work/data/ready.json"; do
        if ! kill -0 "$broker" 2>/dev/null; then
            broker=''
            return 1
        fi
        pause
    done
}

# Sets `place` to the byte up to which `pub` has read the input; to nothing when it does not read it any more.
find_place() {
    local fd
    place=''
    for fd in "/proc/$publisher/fd"/*; do
        if [[ $fd -ef $input ]]; then
            { read -r _ place <"/proc/$publisher/fdinfo/${fd##*/}"; } 2>/dev/null || place=''
            return 0
        fi
    done
}

# Kills the broker when `pub` has come to a byte of the input, and starts it again.
kill_at() {
    local due=$1 killed
    find_place
    while [[ -n $place ]] && ((place < due)); do
        kill -0 "$broker" 2>/dev/null || fail "the broker ended by itself"
        pause
        find_place
    done
    # Read to its end: how much was still to be published is not known.
    if [[ -z $place ]] || ((place >= size)); then
        fail "pub came to the end of the input before kill $((${#places[@]} + 1))"
    fi
    kill -KILL "$broker"
    wait "$broker" 2>/dev/null || true
    killed=$(now_ms)
    kill -0 "$publisher" 2>/dev/null || fail "pub ended when the broker was killed"
    places+=("$place")
    start_broker || fail "the broker does not start again after kill ${#places[@]}"
    recoveries+=($(($(now_ms) - killed)))
}

# await NAME PID: waits for a command to end well.
await() {
    while kill -0 "$2" 2>/dev/null; do
        kill -0 "$broker" 2>/dev/null || fail "the broker ended by itself"
        pause
    done
    wait "$2" || fail "$1 ended with exit code $?"
}

while (($# > 0)); do
    case $1 in
        --kills | --seed | --binary)
            [[ -n ${2-} ]] || usage
            case $1 in
                --binary) tidegate=$2 ;;
                *)
                    [[ $2 =~ ^[0-9]{1,5}$ ]] || usage
                    if [[ $1 == --kills ]]; then kills=$((10#$2)); else seed=$((10#$2)); fi
                    ;;
            esac
            shift 2
            ;;
        --keep) keep=yes && shift ;;
        -*) usage ;;
        *)
            [[ -z $file ]] || usage
            file=$1
            shift
            ;;
    esac
done

if [[ -z $tidegate ]]; then
    cargo build --release --locked --quiet --manifest-path "$root/Cargo.toml"
    tidegate=${CARGO_TARGET_DIR:-$root/target}/release/tidegate
fi
if [[ ! -x $tidegate ]]; then
    echo "$tidegate is no program" >&2
    exit 2
fi
started=$SECONDS
trap clean_up EXIT
trap 'exit 130' INT TERM
work=$(mktemp -d "${TMPDIR:-/tmp}/kill-test.XXXXXX")
input=$work/input.txt
if [[ -z $file ]]; then
    make_input
else
    [[ -r $file ]] || fail "$file cannot be read"
    cp -- "$file" "$input"
    echo "input: $file"
    if [[ -n $(tail -c 1 "$input") ]]; then
        echo "input: its last line has no end and is given one, as consume ends every line"
        echo >>"$input"
    fi
fi
describe_input

RANDOM=$seed
started=$SECONDS
# Below the ports that the system gives to clients: while the broker is away nobody is given its port.
port=''
for _ in 1 2 3 4 5; do
    port=$((SRANDOM % 20000 + 10000))
    if start_broker; then
        break
    fi
done
[[ -n $broker ]] || fail "the broker does not start"

"$tidegate" consume main --as copy --out "$work/copy.txt" --idle "$IDLE" --json \
    --url "unix://$work/data/tidegate.sock" >"$work/consume.json" 2>"$work/consume.log" &
consumer=$!
"$tidegate" pub log/import --lines --file "$input" --json \
    --url "tcp://127.0.0.1:$port" >"$work/pub.json" 2>"$work/pub.log" &
publisher=$!
# Until it has opened the file.
find_place
while [[ -z $place ]]; do
    kill -0 "$publisher" 2>/dev/null || fail "pub ended before it began"
    pause
    find_place
done

places=() recoveries=()
for ((n = 0; n < kills; n++)); do
    # Between 15 and 75 hundredths of the share: the last one leaves something to publish.
    kill_at $((size * (100 * n + 15 + RANDOM % 61) / (100 * kills)))
done
await pub "$publisher"
publisher=''
await consume "$consumer"
consumer=''
kill -TERM "$broker"
wait "$broker" || fail "the broker did not stop in order: exit code $?"
broker=''

published=$(<"$work/pub.json")
consumed=$(<"$work/consume.json")
reconnects=$(number reconnects "$published")
duplicates=$(number duplicates "$published")
elapsed_ms=$(number elapsed_ms "$published")
rate=$(number messages_per_second "$published")
again=$(number seen_again "$consumed")
equal=no
if cmp -- "$input" "$work/copy.txt" >"$work/cmp.log" 2>&1; then
    equal=yes
fi
whole=no
if "$tidegate" store check --data "$work/data" >"$work/check.log" 2>&1; then
    whole=yes
fi

echo
for ((n = 0; n < ${#places[@]}; n++)); do
    line=$(head -c "${places[n]}" "$input" | wc -l)
    printf 'kill %-2d at line %9d  %5s %%   listening again after %4d ms\n' $((n + 1)) "$line" \
        "$((places[n] * 100 / size)).$((places[n] * 1000 / size % 10))" "${recoveries[n]}"
done
echo
printf '%-34s %s\n' \
    "lines" "$lines" \
    "kills while publishing" "${#places[@]} (seed $seed)" \
    "reconnects of pub" "$reconnects" \
    "duplicates answered" "$duplicates" \
    "delivered again, written once" "$again" \
    "seconds of publishing" "$((elapsed_ms / 1000)).$((elapsed_ms / 100 % 10))" \
    "messages/s, kills included" "$rate" \
    "store whole" "$whole" \
    "equal, byte for byte" "$equal"
echo
if [[ $equal == no ]]; then
    fail "the copy differs from the input"
elif ((reconnects < kills)); then
    fail "only $reconnects of $kills kills cut the connection of pub: the input is too short for so many"
elif [[ $whole == no ]]; then
    fail "the store is not whole"
fi
