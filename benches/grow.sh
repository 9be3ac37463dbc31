#!/bin/bash
# How long it takes until an array of large sparse files that holds little has one more data column:
# raid5 4+1, over NBD.
#
#   benches/grow.sh [SIZE of a member, default 1T] [MiB stored, default 1024]
#
# EVENKEEL_TEST_DIR should lie on a file system that takes sparse files of this size (ext4 with 4 KiB
# blocks: up to 16 TiB).
# shellcheck source=tests/nbd/array.sh
. "$(dirname "$0")/../tests/nbd/array.sh"
need nbdcopy nbdsh jq awk

size=${1:-1T} stored=${2:-1024}
d=$work/disks
now() { date +%s.%N; }
took() { awk -v a="$1" -v b="$(now)" 'BEGIN {printf "%.2f s", b - a}'; }
memory() { awk '/^VmHWM/ {printf "%.0f MiB", $2 / 1024}' "/proc/$(pid_of big)/status"; }

truncate -s "$size" "$d"/big.{0..4} "$d/more"
expect 0 make big raid5 4 1 "$size"
start big
head -c "${stored}M" /dev/urandom >"$work/want"
nbdcopy --flush "$work/want" "$(uri big)"
expect 0 "$EK" wait big destage
before=$(status big .size_bytes)
at=$(now)
waited=$("$EK" grow big --json --add "$d/more" | jq .waited_ms) || die "it does not grow"
step "grow --add: $(took "$at"), of which requests waited for $waited ms"
at=$(now)
expect 0 "$EK" wait big grow
after=$(status big .size_bytes)
step "$stored MiB moved: $(took "$at"); the device had $before bytes and has $after"
at=$(now)
nbdsh -u "$(uri big)" -c - <<PYTHON
with open("$work/want", "rb") as f:
    for at in range(0, $stored << 20, 1 << 20):
        assert h.pread(1 << 20, at) == f.read(1 << 20), at
PYTHON
step "all of it read back and compared: $(took "$at")"
step "the daemon took at most $(memory)"
expect 0 "$EK" stop big
