#!/usr/bin/env bash
# Breaks one promise at a time, as tests/mutations/*.patch say, in a copy of the tree, and demands that the test which each
# patch names fails. Slow: the crate is built once a patch.
# usage: scripts/mutations.sh [NAME...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly work=target/mutations
# A mutation may make a test wait for ever.
readonly TEST_SECONDS_MAX=300
export CARGO_TARGET_DIR=$PWD/$work/target
# Built often and run shortly.
export CARGO_PROFILE_TEST_OPT_LEVEL=0 CARGO_PROFILE_DEV_DEBUG=0 CARGO_PROFILE_TEST_DEBUG=0 CARGO_INCREMENTAL=1
export CARGO_TERM_COLOR=never

# header PATCH NAME: what stands behind `NAME:` above the diff.
header() {
    sed -n "/^--- /q; s/^$2: *//p" "$1"
}

patches=()
if (($# > 0)); then
    for name in "$@"; do
        patch=tests/mutations/${name%.patch}.patch
        if [[ ! -f $patch ]]; then
            echo "there is no $patch; there are: $(basename -s .patch tests/mutations/*.patch | tr '\n' ' ')" >&2
            exit 2
        fi
        patches+=("$patch")
    done
else
    patches=(tests/mutations/*.patch)
fi

# A copy of what git knows and what is new, as it is now; unchanged files keep their times, so that little is built.
tree=$work/tree
mkdir -p "$tree"
git ls-files -z --cached --others --exclude-standard >"$work/files"
(cd "$tree" && find . -type f -print0) | while IFS= read -r -d '' file; do
    [[ -e $file ]] || rm -f "$tree/$file"
done
while IFS= read -r -d '' file; do
    if [[ -f $file ]] && ! cmp -s "$file" "$tree/$file"; then
        mkdir -p "$tree/$(dirname "$file")"
        cp "$file" "$tree/$file"
    fi
done <"$work/files"

# run LOG ARGUMENTS...: a test in the copy, as `Caught by` gives it.
run() {
    local log=$1
    shift
    (cd "$tree" && "$@") >"$log" 2>&1 </dev/null
}

failed=0
# say NAME VERDICT SECONDS TEST: a line of the table.
say() {
    printf '%-28s %-16s %5s s  %s\n' "$@"
}

# First as it should be: a test that fails anyway proves nothing.
echo "== the tests without a mutation"
mapfile -t commands < <(for patch in "${patches[@]}"; do header "$patch" "Caught by"; done | sort -u)
for line in "${commands[@]}"; do
    read -r -a command <<<"$line"
    log=$work/without.log
    if [[ ${command[0]-} != cargo ]] || ! run "$log" "${command[@]}" || ! grep -qE '^test result: ok\. [1-9]' "$log"; then
        echo "== it fails without a mutation, or tests nothing: $line (see $log)" >&2
        exit 1
    fi
done

echo "== with one mutation at a time"
for patch in "${patches[@]}"; do
    name=$(basename -s .patch "$patch")
    log=$work/$name.log
    read -r -a command <<<"$(header "$patch" "Caught by")"
    test=${command[-1]-}
    begin=$SECONDS
    if [[ -z $test || -z $(header "$patch" Promise) ]]; then
        say "$name" "NO HEADER" 0 "$patch"
        failed=1
        continue
    fi
    if ! (cd "$tree" && patch -p1 --forward --fuzz=0 --no-backup-if-mismatch --dry-run) <"$patch" >"$log" 2>&1; then
        say "$name" "DOES NOT APPLY" $((SECONDS - begin)) "(see $log)"
        failed=1
        continue
    fi
    (cd "$tree" && patch -p1 --forward --fuzz=0 --no-backup-if-mismatch) <"$patch" >"$log"
    verdict=caught
    if ! run "$log" "${command[@]}" --no-run; then
        verdict="DOES NOT BUILD"
    elif run "$log" timeout --kill-after=10 "$TEST_SECONDS_MAX" "${command[@]}"; then
        verdict=SURVIVED
    elif ! grep -q '^test result: FAILED' "$log"; then
        # It did not end by itself, or stopped the whole process: seen, but not by an assertion.
        verdict="caught (crash)"
    fi
    (cd "$tree" && patch -p1 --reverse --no-backup-if-mismatch) <"$patch" >/dev/null
    say "$name" "$verdict" $((SECONDS - begin)) "$test"
    if [[ $verdict != caught* ]]; then
        failed=1
    fi
done
if ((failed)); then
    echo "== a mutation was not caught as its patch says" >&2
fi
exit "$failed"
