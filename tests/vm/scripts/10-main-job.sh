#!/bin/bash
# The main job from end to end: a RAID-6 of six disks with ext4 and thousands of real files on it,
# which survives the daemon's death under load and the loss of two disks during writes. Every file is
# checked by its SHA-256, and the file system by e2fsck.
#
#   tests/vm/boot --disks 6 --size 512M --tree tests/vm/scripts/10-main-job.sh [--files]
#
#   --files  on six sparse files instead of the disks; they lie on a file system on the first of the
#            disks that are given, or in the scratch directory if none is (tools/demo)
#
# boot: --disks 6 --size 512M --tree --limit 600
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"
. "${BASH_SOURCE[0]%/*}/load.sh"

files=0
[ "${1:-}" = --files ] && files=1
tree=${EVENKEEL_TREE:?a sample tree; give --tree to tests/vm/boot}
mnt=$work/mnt parts=()
mkdir -p "$mnt"

# --- the pieces ----------------------------------------------------------------------------------

# load_on NAME: the load on a file of this name in the mounted file system.
load_on() { load "$1" "$mnt/$1" --size=8m; }
# load_done: its end; the file is one more to verify.
load_done() {
	load_ends
	(cd "$mnt" && sha256sum "$load_name") >>"$work/sums.fio"
}

# verify: every file, after a fresh mount, so from the array and not from the page cache.
verify() {
	local began count part
	began=$(now)
	if mountpoint -q "$mnt"; then
		umount "$mnt" || fail "$mnt cannot be unmounted"
		mount "$device" "$mnt" || fail "$device cannot be mounted again"
	else
		mount_it
	fi
	rm -f "$work"/verify.*
	split -n l/4 "$work/sums" "$work/verify.sums."
	for part in "$work"/verify.sums.*; do
		(cd "$mnt/tree" && sha256sum --quiet -c "$part" >"${part/sums/out}" 2>&1 && touch "${part/sums/ok}") &
		parts+=($!)
	done
	wait "${parts[@]}"
	parts=()
	if [ "$(printf '%s\n' "$work"/verify.ok.* | wc -l)" != 4 ]; then
		cat "$work"/verify.out.* | head -n 20
		fail "files differ: $(cat "$work"/verify.out.* | wc -l) complaints"
	fi
	count=$(wc -l <"$work/sums")
	if [ -s "$work/sums.fio" ]; then
		(cd "$mnt" && sha256sum --quiet -c "$work/sums.fio") >"$work/verify.fio" 2>&1 || fail "fio's files differ: $(cat "$work/verify.fio")"
		count=$((count + $(wc -l <"$work/sums.fio")))
	fi
	ok "all $count files have the SHA-256 they should have ($(since "$began") s)"
}
check_fs() {
	run e2fsck -fn "$device"
	ok "e2fsck finds nothing to repair"
}

gone_members() { status_of '[.members[] | select(.state == "failed" or .state == "missing")] | length'; }
# pull DISK: unplugs it where it can be unplugged, else asks the array to fail it.
pull() {
	local at
	at=$(readlink -f "/sys/block/${1##*/}/device/.." 2>/dev/null)
	if [ $files = 0 ] && [ "${EVENKEEL_VENUE:-}" = vm ] && [ -e "$at/remove" ]; then
		say "Pulling $1: its PCI device is removed, with the array's writes on the way."
		echo 1 >"$at/remove"
		until_true 10 test ! -e "/sys/block/${1##*/}" || fail "$1 is still there"
	else
		run "$evenkeel" fail "$array" "$1"
	fi
}

# --- the story -----------------------------------------------------------------------------------

read -ra given <<<"${EVENKEEL_DISKS:-}"
create=(create "$array" --level raid6 --data 4 --parity 2)
if [ $files = 1 ]; then
	home=$work
	if [ ${#given[@]} -gt 0 ]; then
		home=$work/home
		mkdir -p "$home"
		mkfs.ext4 -q -F "${given[0]}" || fail "no place for the files"
		mount "${given[0]}" "$home" || fail "no place for the files"
		mounts+=("$home")
	fi
	disks=("$home"/disk{0..5})
	create+=(--file-size 512M)
	what="six sparse files"
else
	[ ${#given[@]} -ge 6 ] || fail "six disks are needed, and only ${#given[@]} are here"
	disks=("${given[@]:0:6}")
	what="six disks"
fi
echo "Evenkeel's main job, on $(uname -sr), over $what."

step "Create a RAID-6 of $what: four hold data, two parity"
run "$evenkeel" "${create[@]}" "${disks[@]}"
ok "the array is created"

step "Start it: the kernel gets a block device"
start_array "${disks[@]}"
first_device=$device
expect "state" "$(status_of .state)" = healthy
expect "disks that it can lose" "$(status_of .can_lose)" = 2
say "$device has $(($(blockdev --getsize64 "$device") >> 20)) MiB."

step "Make an ext4 file system and mount it"
run mkfs.ext4 -q "$device"
mount_it

step "Copy a tree of real files onto it"
cp "$tree/SHA256SUMS" "$work/sums"
began=$(now)
run cp -a "$tree/files" "$mnt/tree"
run sync -f "$mnt"
count=$(wc -l <"$work/sums")
say "$count files, $(du -sm --apparent-size "$mnt/tree" | cut -f1) MiB, in $(since "$began") s."
expect "files" "$count" -ge 3000

step "Kill the daemon under load, and go on"
load_on load1
say "fio writes at random into a file there, 16 requests at a time."
sleep 1
wait_busy
old_pid=$(daemon_pid)
wait_busy
kill -9 "$old_pid"
killed=$(now)
say "\$ kill -9 $old_pid (the daemon, with $busy writes of the kernel in flight)"
until_true 30 test ! -e "/proc/$old_pid/exe" || fail "the daemon does not die"
sleep 1
load_alive || fail "fio did not survive the daemon's death"
start_array "${disks[@]}"
say "That was $(since "$killed") s without a daemon."
expect "the device, the same as before" "$device" = "$first_device"
expect "the daemon's pid, another than $old_pid" "$(daemon_pid)" != "$old_pid"
replayed=$(status_of '.replay | "\(.commits) commits, \(.records) records, \(.bytes) bytes in \(.seconds) s"')
say "From its log it replayed $replayed."
load_done

step "Lose two of the six disks during writes"
load_on load2
sleep 1
wait_busy
run "$evenkeel" fail "$array" "${disks[1]}"
expect "disks that it can lose" "$(status_of .can_lose)" = 1
sleep 1
wait_busy
pull "${disks[4]}"
two_gone() { [ "$(gone_members)" = 2 ]; }
until_true 60 two_gone || fail "the array does not notice that ${disks[4]} is gone"
expect "disks gone" "$(gone_members)" = 2
expect "state" "$(status_of .state)" = degraded
expect "disks that it can lose" "$(status_of .can_lose)" = 0
load_done

step "Verify every file, with two disks gone"
verify

step "Unmount, check the file system, stop"
umount_it
check_fs
stop_array
until_true 10 test ! -e "/sys/block/${first_device##*/}" || fail "$first_device is still there"
ok "$first_device is gone"

step "Start it with the four disks that are left"
left=("${disks[0]}" "${disks[2]}" "${disks[3]}" "${disks[5]}")
start_array "${left[@]}"
expect "state" "$(status_of .state)" = degraded
check_fs
verify

step "Delete half of it and trim: the stripes come free"
run_limit=120 run "$evenkeel" wait "$array" destage
before=$(status_of .stripes.mapped)
(cd "$mnt" && rm -f load1 load2 && sed 's/^[0-9a-f]*  //' "$work/sums" | awk 'NR % 2' | (cd tree && xargs -d '\n' rm -f))
awk 'NR % 2 == 0' "$work/sums" >"$work/sums.left" && mv "$work/sums.left" "$work/sums"
rm -f "$work/sums.fio"
sync -f "$mnt"
run fstrim -v "$mnt"
fewer() { [ "$(status_of .stripes.mapped)" -lt $((before - 40)) ]; }
until_true 30 fewer || fail "of $before mapped stripes, $(status_of .stripes.mapped) are left: too many"
ok "stripes in use: $before before, $(status_of .stripes.mapped) now, of $(status_of .stripes.total)"
verify

step "Unmount, check once more, stop"
umount_it
check_fs
stop_array

summary "The daemon was killed under load, two of six disks were lost during writes, and no byte was."
