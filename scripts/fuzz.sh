#!/usr/bin/env bash
# Runs the fuzz targets of fuzz/, two at a time, for so many seconds in all; a finding is an error and says how to see it again.
# usage: scripts/fuzz.sh SECONDS [TARGET...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly CARGO_FUZZ_VERSION=0.13.2
readonly JOBS=2
# One input that takes longer, in seconds, is a finding; so is one that takes more memory, in MiB.
readonly INPUT_SECONDS_MAX=20 INPUT_MIB_MAX=1024

usage() {
    echo "usage: scripts/fuzz.sh SECONDS [TARGET...]" >&2
    echo "targets: $(all_targets | tr '\n' ' ')" >&2
    exit 2
}

all_targets() {
    sed -n 's/^name = "\(.*\)"$/\1/p' fuzz/Cargo.toml | grep -vx tidegate-fuzz
}

# cargo-fuzz goes into a folder of ours: the user's own tools stay as they are.
install_cargo_fuzz() {
    export PATH="$PWD/target/tools/bin:$PATH"
    if ! cargo fuzz --version >/dev/null 2>&1; then
        echo "== installing cargo-fuzz $CARGO_FUZZ_VERSION into target/tools"
        cargo install --locked --quiet cargo-fuzz --version "$CARGO_FUZZ_VERSION" --root target/tools
    fi
}

# What a target begins with, beside what earlier runs found.
seed_corpus() {
    local corpus=fuzz/corpus/$1
    mkdir -p "$corpus"
    case $1 in
        frame) cp proto/golden/*.bin "$corpus/" ;;
        journal) find proto -path '*journal*' -type f -name '*.bin' -exec cp {} "$corpus/" \; ;;
        auth)
            # Two zero bytes choose the file of identities among the kinds of input; their count is at the end.
            printf '\0\0\0\0uid 1000 name=a tenant=acme roles=open expires=2027-01-01\n' >"$corpus/identities"
            ;;
        config)
            # Four zero bytes choose the plain text among the kinds of input.
            { printf '\0\0\0\0' && cat src/config/example.yaml; } >"$corpus/example"
            { printf '\0\0\0\0' && printf 'queues:\n  - {name: a, capture: ["a/#", b]}\nstore: {linger: 1ms}\n'; } >"$corpus/small"
            ;;
    esac
}

# fuzz TARGET SECONDS: one target, its output in a file. Without a sanitizer: the crate forbids unsafe code, and makes several
# times the runs so.
fuzz() {
    local target=$1 seconds=$2 dict=()
    if [[ -f fuzz/dict/$target.dict ]]; then
        dict=("-dict=dict/$target.dict")
    fi
    (cd fuzz && cargo fuzz run --sanitizer none "$target" "corpus/$target" -- "${dict[@]}" -max_total_time="$seconds" \
        -max_len=8192 -timeout="$INPUT_SECONDS_MAX" -rss_limit_mb="$INPUT_MIB_MAX" -print_final_stats=1) \
        >"$logs/$target.log" 2>&1 </dev/null
}

# report TARGET STATUS: its line of the summary, and on a finding what went wrong.
report() {
    local target=$1 status=$2 log=$logs/$1.log runs cov found
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | tail -n 1)
    cov=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
    found="nothing found"
    if ((status != 0)); then
        found=FOUND
    fi
    printf '%-10s %12s runs %8s edges  %s\n' "$target" "${runs:-?}" "${cov:-?}" "$found"
    if ((status != 0)); then
        local artifact
        artifact=$(sed -n 's/.*Test unit written to \(.*\)$/\1/p' "$log" | tail -n 1)
        grep -E -A3 'panicked at|ERROR: (libFuzzer|AddressSanitizer)|^error' "$log" | head -n 12 | sed 's/^/    /'
        if [[ -n $artifact ]]; then
            echo "    again: cd fuzz && RUSTC_BOOTSTRAP=1 cargo fuzz run --sanitizer none $target ${artifact#"$PWD"/fuzz/}"
            echo "    small: cd fuzz && RUSTC_BOOTSTRAP=1 cargo fuzz tmin --sanitizer none $target ${artifact#"$PWD"/fuzz/}"
        fi
        echo "    log:   $log"
    fi
}

[[ ${1-} =~ ^[1-9][0-9]*$ ]] || usage
seconds=$1
shift
targets=("$@")
if ((${#targets[@]} == 0)); then
    mapfile -t targets < <(all_targets)
fi
for target in "${targets[@]}"; do
    all_targets | grep -qx -- "$target" || usage
done

# A stable toolchain may use the flags of the sanitizers so.
if ! rustc --version | grep -q nightly; then
    export RUSTC_BOOTSTRAP=1
fi
install_cargo_fuzz
logs=target/fuzz-logs
mkdir -p "$logs"
logs=$PWD/$logs

echo "== building"
(cd fuzz && for target in "${targets[@]}"; do cargo fuzz build --sanitizer none "$target"; done)

each=$((seconds * JOBS / ${#targets[@]}))
if ((each > seconds)); then each=$seconds; fi
if ((each < 1)); then each=1; fi
echo "== ${#targets[@]} targets, $JOBS at a time, $each s each"
declare -A running=()
failed=0

# Waits for one target to end and reports it.
reap() {
    local pid status=0
    wait -n -p pid || status=$?
    report "${running[$pid]}" "$status"
    unset "running[$pid]"
    if ((status != 0)); then failed=1; fi
}

for target in "${targets[@]}"; do
    if ((${#running[@]} >= JOBS)); then
        reap
    fi
    seed_corpus "$target"
    echo "== $target begins"
    fuzz "$target" "$each" &
    running[$!]=$target
done
while ((${#running[@]} > 0)); do
    reap
done
exit "$failed"
