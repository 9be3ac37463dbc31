#!/bin/bash
# An ext4 on a RAID-6, with the kernel's dm-log-writes between them, which logs every write and flush to
# another disk: for tests/vm/log-writes.
#
#   tests/vm/boot --disks 7 --with POWER --out DIR tests/vm/scripts/log-writes.sh
#
# The last disk gets the log; DIR/sum is the SHA-256 of the first 64 MiB of the array.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"

out=${EVENKEEL_OUT:?a directory that stays}
read -ra disks <<<"${EVENKEEL_DISKS:?disks}"
mnt=$work/mnt logged=/dev/mapper/logged
mkdir -p "$mnt"

step "A RAID-6, and a log of what is written to it"
modprobe -a dm-mod dm-log-writes || fail "modules are missing"
run "$evenkeel" create "$array" --level raid6 "${disks[@]:0:6}"
start_array "${disks[@]:0:6}"
run dmsetup create logged --table "0 $(blockdev --getsz "$device") log-writes $device ${disks[6]}"
until_true 10 test -b $logged || fail "no $logged"

step "An ext4 under a load that syncs"
run mkfs.ext4 -q -b 4096 -E lazy_itable_init=0,lazy_journal_init=0 $logged 64M
# From here on every point shall be a file system.
run dmsetup message logged 0 mark mkfs
run mount $logged "$mnt"
mounts+=("$mnt")
run power records-init "$mnt/records" 1
power records "$mnt/records" 1 "$work/acks" --seconds 12 &
jobs_running+=($!)
for ((i = 1; i <= 12; i++)); do
	mkdir -p "$mnt/tree/$i/below" && head -c 20000 /dev/zero | tr '\0' "$((i % 10))" >"$mnt/tree/$i/below/file" &&
		ln "$mnt/tree/$i/below/file" "$mnt/tree/$i/link" && sync "$mnt/tree/$i/below/file" || fail "a write failed"
	if [ $i -gt 3 ]; then rm -r "$mnt/tree/$((i - 3))" || fail "a removal failed"; fi
	sleep 0.5
done
wait "${jobs_running[@]}" || fail "the records: an error"
jobs_running=()
run fstrim "$mnt"
umount_it

step "What is there"
run dmsetup remove logged
dd if="$device" bs=1M count=64 iflag=direct status=none | sha256sum >"$out/sum" || fail "$device cannot be read"
stop_array
sync
summary "It is logged."
