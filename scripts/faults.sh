#!/usr/bin/env bash
# Real faults that need privileges or minutes, and all the others with them: prints a table of what held.
#
# usage: scripts/faults.sh [--quick] [--only WORD]
#
#   --quick  leaves out what takes minutes
#   --only   runs only the faults whose name holds WORD
#
# Each fault is a test of tests/faults: the real program, with publishers and consumers at work. What this machine does
# not permit (mounts, loop devices, memory groups) is said in the table, not passed over. As root it needs nothing; as
# another user, user namespaces. It ends only what it started and leaves nothing behind.
#
# Exit code: 0 when all that could run held, 1 when something did not, 2 for wrong arguments.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

quick=no only='' work='' group='' failed=0
usage() {
    echo "usage: scripts/faults.sh [--quick] [--only WORD]" >&2
    exit 2
}
while (($# > 0)); do
    case $1 in
        --quick) quick=yes ;;
        --only)
            [[ -n ${2-} ]] || usage
            only=$2
            shift
            ;;
        *) usage ;;
    esac
    shift
done

# shellcheck disable=SC2317 # Called by the trap.
clean_up() {
    if [[ -n $group ]]; then
        rmdir "$group" 2>/dev/null || true
    fi
    rm -rf "$work"
}
work=$(mktemp -d)
trap clean_up EXIT

can_mount() {
    # shellcheck disable=SC2016 # For the inner shell.
    unshare -rm sh -ec 'd=$(mktemp -d) && mount -t tmpfs none "$d" && umount "$d" && rmdir "$d"' 2>/dev/null
}

can_loop() {
    # shellcheck disable=SC2016
    [[ $(id -u) == 0 ]] && command -v mkfs.ext4 >/dev/null &&
        truncate -s 16M "$work/try" && mkfs.ext4 -q "$work/try" &&
        unshare -m sh -ec 'd=$(mktemp -d) && mount -o loop "$1" "$d" && umount "$d" && rmdir "$d"' sh "$work/try" 2>/dev/null
}

# A memory group of our own, of either version.
make_group() {
    local root
    for root in /sys/fs/cgroup /sys/fs/cgroup/memory; do
        local path=$root/tidegate-faults-$$
        if mkdir "$path" 2>/dev/null; then
            if [[ -e $path/memory.max || -e $path/memory.limit_in_bytes ]]; then
                group=$path
                return 0
            fi
            rmdir "$path"
        fi
    done
    return 1
}

rows=()
row() {
    rows+=("$(printf '%-8s %5s  %s' "$1" "$2" "$3")")
    printf '%-8s %5s  %s\n' "$1" "$2" "$3"
}

# fault NAME [ENV=VALUE...]: one test.
fault() {
    local name=$1 started=$SECONDS log
    shift
    if [[ -n $only && $name != *"$only"* ]]; then
        return
    fi
    log=$work/log
    # A name that is no test passes, too.
    if env "$@" "$binary" --exact "$name" --include-ignored --nocapture >"$log" 2>&1 && grep -q "1 passed" "$log"; then
        if grep -q '^SKIPPED' "$log"; then
            row skipped '-' "$name: $(sed -n 's/^SKIPPED //p' "$log" | head -n 1)"
        else
            row held "$((SECONDS - started))s" "$name"
        fi
    else
        failed=1
        row FAILED "$((SECONDS - started))s" "$name"
        tail -n 40 "$log" >&2
    fi
}

skip() {
    if [[ -z $only || $1 == *"$only"* ]]; then
        row skipped '-' "$1: $2"
    fi
}

echo "building"
binary=$(cargo test --locked --test faults --no-run 2>&1 | sed -n 's/.*Executable.*(\(.*\))$/\1/p')
[[ -x $binary ]] || {
    echo "the tests cannot be built: cargo test --test faults --no-run" >&2
    exit 1
}

can_mount || echo "no mounts of one's own: small disks are skipped"
mapfile -t plain < <("$binary" --list --format terse 2>/dev/null | sed -n 's/: test$//p' | grep -v -e '::long_' -e '::privileged_')
for name in "${plain[@]}"; do
    fault "$name"
done

name=full_disk::privileged_a_small_ext4_fills_up_and_recovers_alone
if can_loop; then fault "$name"; else skip "$name" "no loop devices, or not root"; fi
name=folder::privileged_a_file_system_that_turns_read_only_refuses_publishes_and_keeps_what_was_acknowledged
if can_loop; then fault "$name"; else skip "$name" "no loop devices, or not root"; fi
name=memory::privileged_at_the_limit_of_its_memory_group_it_ends_and_comes_back_whole
if make_group; then fault "$name" TIDEGATE_TEST_CGROUP="$group"; else skip "$name" "no memory group can be made"; fi
name=stopped::long_a_process_that_is_stopped_for_a_minute_loses_nothing_and_clients_come_back
if [[ $quick == no ]]; then fault "$name"; else skip "$name" "takes minutes"; fi

printf '\n%-8s %5s  %s\n' RESULT TIME FAULT
printf '%s\n' "${rows[@]}"
exit "$failed"
