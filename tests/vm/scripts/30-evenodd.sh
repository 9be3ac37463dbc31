#!/bin/bash
# EVENODD on a real kernel: six disks with ext4, two of them lost under a load that checks what it
# reads, all of it read back, started again with the four that are left.
#
#   tests/vm/boot --disks 6 --size 128M tests/vm/scripts/30-evenodd.sh
#
# boot: --disks 6 --size 128M --limit 300
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"

read -ra disks <<<"${EVENKEEL_DISKS:-}"
[ ${#disks[@]} -ge 6 ] || fail "six disks are needed, and only ${#disks[@]} are here"
disks=("${disks[@]:0:6}")
mnt=$work/mnt
mkdir -p "$mnt"
check_sums() {
	(cd "$mnt" && sha256sum --quiet -c "$work/sums") || fail "files differ"
	ok "$(wc -l <"$work/sums") files have the SHA-256 they should have"
}
busy() {
	local writes
	read -r _ writes <"/sys/block/${device##*/}/inflight"
	[ "$writes" -ge 2 ]
}
loaded() { kill -0 "$load" 2>/dev/null || fail "fio has ended: $(cat "$work/fio-load.out")"; }

step "Create an EVENODD array of six disks, start it, mount ext4"
run "$evenkeel" create "$array" --level evenodd "${disks[@]}"
start_array "${disks[@]}"
expect "level" "$(status_of .level)" = evenodd
expect "disks that it can lose" "$(status_of .can_lose)" = 2
run mkfs.ext4 -q "$device"
mount_it
for i in 1 2 3; do head -c $((i * 1500000)) /dev/urandom >"$mnt/file$i"; done
(cd "$mnt" && sha256sum file*) >"$work/sums"

step "Lose two of the six disks during writes"
fio --name=load --filename="$mnt/load" --size=12m --rw=randwrite --bsrange=4k-32k --ioengine=libaio \
	--iodepth=16 --direct=1 --verify=crc32c --verify_fatal=1 --do_verify=1 --fallocate=none --randseed=5 \
	--loops=3 --output="$work/fio-load.log" </dev/null >"$work/fio-load.out" 2>&1 &
load=$!
jobs_running+=("$load")
for gone in 1 4; do
	until_true 60 busy || fail "fio keeps no writes in flight"
	loaded
	run "$evenkeel" fail "$array" "${disks[gone]}"
done
expect "disks that it can lose" "$(status_of .can_lose)" = 0
loaded
wait "$load" || fail "fio ended with an error: $(cat "$work/fio-load.out")"
jobs_running=()
grep -q 'err= 0' "$work/fio-load.log" || fail "fio saw an error"
ok "fio went on, read back what it wrote, and saw no error"
(cd "$mnt" && sha256sum load) >>"$work/sums"
umount_it
run e2fsck -fn "$device"
mount_it
check_sums

step "Stop, and start with the four disks that are left"
umount_it
stop_array
start_array "${disks[0]}" "${disks[2]}" "${disks[3]}" "${disks[5]}"
expect "state" "$(status_of .state)" = degraded
run e2fsck -fn "$device"
mount_it
check_sums
umount_it
stop_array

summary "Two of six disks were lost during writes, and no byte was."
