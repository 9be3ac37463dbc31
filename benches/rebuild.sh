#!/bin/bash
# How long it takes to create an array of large sparse files, and to rebuild a member of it that holds
# little: raid6 4+2 and a spare, over NBD.
#
#   benches/rebuild.sh [SIZE of a member, default 1T] [MiB stored, default 1024]
#
# EVENKEEL_TEST_DIR should lie on a file system that takes sparse files of this size (ext4 with 4 KiB
# blocks: up to 16 TiB).
# shellcheck source=tests/nbd/array.sh
. "$(dirname "$0")/../tests/nbd/array.sh"
need nbdcopy jq awk

size=${1:-1T} stored=${2:-1024}
d=$work/disks
now() { date +%s.%N; }
took() { awk -v a="$1" -v b="$(now)" 'BEGIN {printf "%.2f s", b - a}'; }
memory() { awk '/^VmHWM/ {printf "%.0f MiB", $2 / 1024}' "/proc/$(pid_of big)/status"; }

truncate -s "$size" "$d"/big.{0..5} "$d/spare"
at=$(now)
expect 0 make big raid6 4 2 "$size" --spare "$d/spare"
step "create with 6 members of $size and a spare: $(took "$at"), $(du -sm "$d" | cut -f1) MiB on the disk"
at=$(now)
start big
step "start: $(took "$at")"
head -c "${stored}M" /dev/urandom >"$work/want"
at=$(now)
nbdcopy --flush "$work/want" "$(uri big)"
step "$stored MiB written: $(took "$at")"
expect 0 "$EK" wait big destage
at=$(now)
expect 0 "$EK" fail big "$d/big.2"
expect 0 "$EK" wait big rebuild
step "rebuild of the part of $stored MiB: $(took "$at"), $(status big '"\(.stripes.mapped) of \(.stripes.total) stripes in use"')"
[ "$(status big '.members[2].path')" = "$d/spare" ] || die "the spare is not member 2"
at=$(now)
nbdsh -u "$(uri big)" -c - <<PYTHON
with open("$work/want", "rb") as f:
    for at in range(0, $stored << 20, 1 << 20):
        assert h.pread(1 << 20, at) == f.read(1 << 20), at
PYTHON
step "all of it read back and compared: $(took "$at")"
expect 0 "$EK" fail big "$d/big.0"
at=$(now)
expect 0 "$EK" add big "$d/big.0"
expect 0 "$EK" wait big rebuild
step "a member back that missed nothing: $(took "$at"), $(sed -n 's/.*the rebuild of .* begins: \([0-9]*\) bytes.*/\1/p' "$work/run/big.log") bytes copied"
step "the daemon took at most $(memory)"
at=$(now)
stop big
step "stop: $(took "$at")"
