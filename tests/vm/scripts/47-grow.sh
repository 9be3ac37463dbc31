#!/bin/bash
# Growing under a mounted, busy ext4: every member of a RAID-5 is replaced by a larger disk, the array grows,
# and so do the device and the file system, while fio writes; kill -9 right behind it. Then devices that are
# made larger where they are (device mapper). Where the kernel cannot make a ublk
# device larger (before Linux 6.16) the device keeps its size, also through a takeover, until it is stopped.
#
#   tests/vm/boot --disks 8 --size 160M tests/vm/scripts/47-grow.sh
#   tests/vm/boot --kernel 6.12 --disks 8 --size 160M tests/vm/scripts/47-grow.sh
#
# boot: --disks 8 --size 160M --limit 500
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"
. "${BASH_SOURCE[0]%/*}/load.sh"

mnt=$work/mnt
mkdir -p "$mnt"
read -ra disks <<<"${EVENKEEL_DISKS:-}"
small=96 # MiB of a small member

size() { blockdev --getsize64 "$device"; }
sectors() { blockdev --getsz "$1"; }
# small_disk NAME DISK MIB: /dev/mapper/NAME is the first MiB of DISK, now.
small_disk() { dmsetup create "$1" --table "0 $(($3 * 2048)) linear $2 0" || fail "no device mapper"; }
larger_disk() { # larger_disk NAME DISK: all of it, while it is in use
	if ! { dmsetup suspend --noflush --nolockfs "$1" && dmsetup load "$1" --table "0 $(sectors "$2") linear $2 0" && dmsetup resume "$1"; }; then
		fail "the table of $1 cannot be exchanged"
	fi
}
refused() { # refused STATUS TEXT: growing is
	local rc=0
	"$evenkeel" grow "$array" --size >"$work/grow.out" 2>&1 || rc=$?
	indent <"$work/grow.out"
	expect "evenkeel grow" $rc = "$1"
	grep -qF -- "$2" "$work/grow.out" || fail "\"$2\" is not said"
}
# grows LEAST-MIB: it grows, by so much at least; before=, after= are the sizes of the array, and the device
# shows what this kernel can show.
grows() {
	before=$(status_of .size_bytes)
	run "$evenkeel" grow "$array" --size --json
	after=$(jq .after_bytes "$work/run.out")
	expect "the array's bytes before" "$(jq .before_bytes "$work/run.out")" = "$before"
	expect "the array's bytes" "$(status_of .size_bytes)" = "$after"
	expect "bytes that it has grown by" $((after - before)) -ge $(($1 << 20))
	grep -q "has grown from $before to $after bytes" "$run_dir/$array.log" || fail "the log does not say so"
	if can_show; then
		shown=$after
		grep -q "$device shows it" "$work/run.out" || fail "that the device shows it is not said"
	else
		shown=$before
		grep -q "after the next stop and start" "$work/run.out" || fail "when the device shows it is not said"
	fi
	expect "bytes as the answer says the device has" "$(jq .device_bytes "$work/run.out")" = "$shown"
	expect "the device's bytes" "$(size)" = "$shown"
}
# can_show: this kernel has UPDATE_SIZE.
can_show() { printf '6.16\n%s\n' "$(uname -r)" | sort -VC; }
killed() { # killed DISK...: the daemon dies, and another one goes on
	local pid old=$device
	pid=$(daemon_pid)
	kill -9 "$pid"
	say "\$ kill -9 $pid (the daemon)"
	until_true 30 test ! -e "/proc/$pid/exe" || fail "the daemon does not die"
	start_array "$@"
	expect "the device, the same as before" "$device" = "$old"
	expect "the device's bytes" "$(size)" = "$shown"
	expect "the array's bytes" "$(status_of .size_bytes)" = "$after"
}
# holds: what was written first is there, as the disks have it.
holds() {
	sync -f "$mnt"
	echo 3 >/proc/sys/vm/drop_caches
	(cd "$mnt" && sha256sum --quiet -c "$work/sums") || fail "files differ"
	ok "all $(wc -l <"$work/sums") files are what they were"
}
write_file() { # write_file NAME MIB
	head -c "$2M" /dev/urandom >"$mnt/$1" || fail "$1 does not fit"
	(cd "$mnt" && sha256sum "$1" >>"$work/sums")
}
fs_bytes() { stat -f -c '%b %S' "$mnt" | awk '{ print $1 * $2 }'; }

echo "Growing, on $(uname -sr)."
modprobe -a dm-mod || fail "modules are missing"

step "A RAID-5 of four small disks, ext4 on it, fio writing"
for i in 0 1 2 3; do small_disk "small$i" "${disks[i]}" $small; done
members=(/dev/mapper/small{0..3})
run "$evenkeel" create "$array" --level raid5 "${members[@]}"
start_array "${members[@]}"
run mkfs.ext4 -q -E nodiscard "$device"
mount_it
: >"$work/sums"
for i in 1 2 3; do write_file "first$i" 24; done
sync -f "$mnt"
load "$array" "$mnt/fio" --size=8m

step "Every member is replaced by a larger disk; before the last one it cannot grow"
for i in 0 1 2 3; do
	refused 15 "nothing to gain"
	run "$evenkeel" replace "$array" "${members[i]}" "${disks[4 + i]}"
	members[i]=${disks[4 + i]}
	run "$evenkeel" wait "$array" rebuild --timeout 170
done
load_goes_on

step "It grows under fio, and the device with it"
wait_busy
grows $((3 * 48))
load_goes_on

if can_show; then
	step "The file system grows, mounted and busy, and is filled beyond its old size"
	fs_before=$(fs_bytes)
	run resize2fs "$device"
	expect "bytes of the file system, after $fs_before" "$(fs_bytes)" -gt $((fs_before + (100 << 20)))
	write_file beyond $((3 * small - 60))
	load_goes_on
	holds
fi

step "The daemon is killed under load: the device keeps the size that it shows"
wait_busy
killed "${members[@]}"
load_goes_on
holds

step "Stop, check, start: the size stays, or is shown now"
load_ends
umount_it
run e2fsck -fn "$device"
stop_array
start_array "${members[@]}"
expect "the device's bytes" "$(size)" = "$after"
run e2fsck -fy "$device"
run resize2fs "$device"
mount_it
expect "bytes of the file system" "$(fs_bytes)" -gt $((after - after / 5))
write_file last 40
holds

step "One disk fails: everything is there, also what was written beyond the old end"
run "$evenkeel" fail "$array" "${members[2]}"
holds
refused 1 "is failed"
umount_it
run e2fsck -fn "$device"
stop_array
run "$evenkeel" destroy "${members[@]}"

step "Devices that are made larger where they are: a RAID-6 of five, ext4 on it, fio writing"
array=tank
for i in 0 1 2 3; do dmsetup remove "small$i" || fail "small$i is held"; done
for i in 0 1 2 3 4; do small_disk "part$i" "${disks[i]}" $small; done
members=(/dev/mapper/part{0..4})
# On some of them is what is left of members that were replaced.
run "$evenkeel" create "$array" --level raid6 --force "${members[@]}"
start_array "${members[@]}"
run mkfs.ext4 -q -E nodiscard "$device"
mount_it
: >"$work/sums"
write_file first 32
load "$array" "$mnt/fio" --size=8m
for i in 0 1 2 3; do larger_disk "part$i" "${disks[i]}"; done
refused 15 "/dev/mapper/part4 has"
larger_disk part4 "${disks[4]}"
wait_busy
grows $((3 * 48))
killed "${members[@]}"
load_goes_on
if can_show; then
	run resize2fs "$device"
	write_file beyond $((3 * small - 60))
fi
load_ends
holds
run "$evenkeel" scrub "$array"
run "$evenkeel" wait "$array" scrub
expect "blocks that are wrong" "$(status_of '.scrub.mismatches')" = 0
umount_it
run e2fsck -fn "$device"
stop_array
start_array "${members[@]:0:3}"
expect "the device's bytes, with two disks missing" "$(size)" = "$after"
mount_it
holds
umount_it
stop_array

summary "Two arrays grew under load, and their device $(can_show && echo "and file system with them" || echo "after the next start"): nothing was lost."
