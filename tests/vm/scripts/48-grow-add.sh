#!/bin/bash
# Growing by more disks under a mounted, busy ext4: a RAID-5 of three disks gets a fourth, and two more at
# once, while fio writes and verifies. The array is stopped and started behind the device, which has its requests
# wait, and nobody sees an error; `kill -9` in the middle of moving stripes; when all are moved the device has
# its new size, and the file system is made larger, mounted and busy. At the end e2fsck, checksums of the files,
# and a disk lost. Where the kernel cannot make a ublk device larger (before Linux 6.16) it is after a stop and a start.
#
#   tests/vm/boot --disks 6 --size 192M tests/vm/scripts/48-grow-add.sh
#   tests/vm/boot --kernel 6.12 --disks 6 --size 192M tests/vm/scripts/48-grow-add.sh
#
# boot: --disks 6 --size 192M --limit 600
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"
. "${BASH_SOURCE[0]%/*}/load.sh"

mnt=$work/mnt
mkdir -p "$mnt"
read -ra disks <<<"${EVENKEEL_DISKS:-}"

size() { blockdev --getsize64 "$device"; }
# can_show: this kernel has UPDATE_SIZE.
can_show() { printf '6.16\n%s\n' "$(uname -r)" | sort -VC; }
refused() { # refused STATUS TEXT DISK...: growing by these is
	local rc=0 want=$1 text=$2
	shift 2
	"$evenkeel" grow "$array" --add "$@" >"$work/grow.out" 2>&1 </dev/null || rc=$?
	indent <"$work/grow.out"
	expect "evenkeel grow" $rc = "$want"
	grep -qF -- "$text" "$work/grow.out" || fail "\"$text\" is not said"
}
# grows K DISK...: the array, of K data columns, gets these; before=, after= are its bytes now, and when all
# stripes are moved. The daemon and the device are the ones of before.
grows() {
	local k=$1 pid old=$device
	shift
	before=$(status_of .size_bytes)
	pid=$(daemon_pid)
	run "$evenkeel" grow "$array" --add "$@" --json
	after=$(jq .after_bytes "$work/run.out")
	say "Requests waited for $(jq .waited_ms "$work/run.out") ms."
	expect "data columns before" "$(jq .data_before "$work/run.out")" = "$k"
	expect "data columns" "$(status_of .data)" = $((k + $#))
	expect "bytes that it will have" "$after" -gt "$before"
	expect "bytes as the device shows them now" "$(size)" = "$shown"
	expect "the daemon, the same as before" "$(daemon_pid)" = "$pid"
	expect "the device, the same as before" "$device" = "$old"
}
# moved: waits until all stripes are moved; then the device shows what this kernel can show.
moved() {
	run "$evenkeel" wait "$array" grow --timeout 170
	expect "the array's bytes" "$(status_of .size_bytes)" = "$after"
	expect "a growth that goes on" "$(status_of .grow)" = null
	grep -q "has grown from $before to $after bytes" "$run_dir/$array.log" || fail "the log does not say so"
	if can_show; then shown=$after; fi
	expect "the device's bytes" "$(size)" = "$shown"
}
killed() { # the daemon dies, and another one goes on, by the array's name
	local pid old=$device
	pid=$(daemon_pid)
	kill -9 "$pid"
	say "\$ kill -9 $pid (the daemon)"
	until_true 30 test ! -e "/proc/$pid/exe" || fail "the daemon does not die"
	start_array "$array"
	expect "the device, the same as before" "$device" = "$old"
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
# use_it NAME: the file system grows, mounted and busy, and gets a file that did not fit before.
use_it() {
	local fs_before
	can_show || return 0
	fs_before=$(fs_bytes)
	run resize2fs "$device"
	expect "bytes of the file system, after $fs_before" "$(fs_bytes)" -gt $((fs_before + (after - before) / 2))
	write_file "$1" $(((after - before) / 2 >> 20))
}

echo "Growing by more disks, on $(uname -sr)."

step "A RAID-5 of three disks, ext4 on it, fio writing"
run "$evenkeel" create "$array" --level raid5 "${disks[@]:0:3}"
start_array "${disks[@]:0:3}"
shown=$(size)
run mkfs.ext4 -q -E nodiscard "$device"
mount_it
: >"$work/sums"
for i in 1 2 3 4; do write_file "first$i" 48; done
sync -f "$mnt"
load "$array" "$mnt/fio" --size=8m

step "A member is refused, and a disk that is mounted"
refused 12 "in the array already" "${disks[0]}"
run mkfs.ext4 -q "${disks[3]}"
mkdir -p "$work/other"
mount "${disks[3]}" "$work/other" || fail "no mount"
mounts+=("$work/other")
refused 13 "is mounted" "${disks[3]}"
umount "$work/other" && unset 'mounts[-1]'
refused 16 "ext4" "${disks[3]}"
wipefs -qa "${disks[3]}"
expect "members" "$(status_of '.members | length')" = 3

step "A fourth disk, under fio; the daemon is killed while stripes are moved"
wait_busy
grows 2 "${disks[3]}"
is_moving() { [ "$(status_of '.grow.done_bytes // 0')" -gt 0 ]; }
if until_true 30 is_moving; then
	say "$(status_of '"\(.grow.done_bytes) of \(.grow.total_bytes) bytes are moved."')"
	wait_busy
	killed
	expect "the device's bytes" "$(size)" -le "$after"
else
	say "All were moved before that was seen."
fi
moved
load_goes_on
holds
use_it beyond

step "Two more at once"
wait_busy
grows 3 "${disks[4]}" "${disks[5]}"
moved
load_goes_on
use_it "far beyond"
holds

step "The daemon is killed under load: the device stays as large"
wait_busy
killed
expect "the device's bytes" "$(size)" = "$shown"
expect "the array's bytes" "$(status_of .size_bytes)" = "$after"
load_ends
holds
umount_it
run e2fsck -fn "$device"

step "Stop and start: the size stays, or is shown now; a scrub finds nothing"
stop_array
start_array "${disks[@]}"
expect "the device's bytes" "$(size)" = "$after"
run e2fsck -fy "$device"
run resize2fs "$device"
run "$evenkeel" scrub "$array"
run "$evenkeel" wait "$array" scrub --timeout 170
expect "mismatches" "$(status_of .scrub.mismatches)" = 0
mount_it
expect "bytes of the file system" "$(fs_bytes)" -gt $((after - after / 5))

step "One disk fails: everything is there"
run "$evenkeel" fail "$array" "${disks[4]}"
holds
umount_it
run e2fsck -fn "$device"
stop_array
dmesg | grep -iE 'I/O error|Buffer I/O|EXT4-fs error|aborted journal' && fail "the kernel saw errors"
ok "the kernel saw no error"

summary "An array of three disks has six, and its device $(can_show && echo "and file system are" || echo "is, since the next start,") as much larger: nothing was lost."
