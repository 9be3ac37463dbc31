#!/bin/bash
# The main job in short on an older kernel, Linux 6.12, whose ublk lacks most of what 7.3 has: ext4 on a
# RAID-6, kill -9 under load, two disks lost during writes, stop, start with the rest.
#
#   tests/vm/boot --kernel 6.12 --disks 6 --size 128M tests/vm/scripts/50-kernel-6.12.sh
#
# boot: --kernel 6.12 --disks 6 --size 128M --limit 300
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"
. "${BASH_SOURCE[0]%/*}/load.sh"

mnt=$work/mnt
mkdir -p "$mnt"
read -ra disks <<<"${EVENKEEL_DISKS:-}"
verify() { # after a fresh mount, so from the array and not from the page cache
	mount "$device" "$mnt" || fail "$device cannot be mounted"
	(cd "$mnt" && sha256sum --quiet -c "$work/sums" >"$work/verify" 2>&1) || fail "files differ: $(cat "$work/verify")"
	ok "all $(wc -l <"$work/sums") files have the SHA-256 they should have"
	umount "$mnt" || fail "$mnt cannot be unmounted"
}
check_fs() {
	run e2fsck -fn "$device"
	ok "e2fsck finds nothing to repair"
}
gone_members() { status_of '[.members[] | select(.state == "failed")] | length'; }
two_gone() { [ "$(gone_members)" = 2 ]; }

case $(uname -r) in
6.12.*) ;;
*) fail "this is $(uname -r)" ;;
esac

step "Create a RAID-6 of six disks and start it, on $(uname -sr)"
run "$evenkeel" create "$array" --level raid6 "${disks[@]}"
start_array "${disks[@]}"
first_device=$device
expect "state" "$(status_of .state)" = healthy

step "Make an ext4 file system, and copy real files onto it"
run mkfs.ext4 -q "$device"
mount "$device" "$mnt" || fail "$device cannot be mounted"
mounts+=("$mnt")
mkdir "$mnt/files"
find /usr/bin -maxdepth 1 -type f -size -200k -print0 | sort -z | head -z -n 120 | xargs -0 cp -t "$mnt/files"
(cd "$mnt" && find files -type f -exec sha256sum {} + >"$work/sums")
sync -f "$mnt"
expect "files" "$(wc -l <"$work/sums")" -ge 60

step "Kill the daemon under load, and go on"
load load "$mnt/load" --size=4m
wait_busy
old_pid=$(daemon_pid)
kill -9 "$old_pid"
say "\$ kill -9 $old_pid (the daemon, with $busy writes of the kernel in flight)"
until_true 30 test ! -e "/proc/$old_pid/exe" || fail "the daemon does not die"
load_alive || fail "fio did not survive the daemon's death"
start_array "${disks[@]}"
expect "the device, the same as before" "$device" = "$first_device"
load_goes_on

step "Lose two of the six disks during writes"
wait_busy
run "$evenkeel" fail "$array" "${disks[1]}"
wait_busy
say "Removing ${disks[4]} from the PCI bus, with $busy writes on the way."
if [ "${EVENKEEL_VENUE:-}" = vm ]; then
	echo 1 >"$(readlink -f "/sys/block/${disks[4]##*/}/device/..")/remove"
else
	run "$evenkeel" fail "$array" "${disks[4]}"
fi
until_true 30 two_gone || fail "the array does not notice that ${disks[4]} is gone"
expect "state" "$(status_of .state)" = degraded
expect "disks that it can lose" "$(status_of .can_lose)" = 0
load_ends
(cd "$mnt" && sha256sum load) >>"$work/sums"
umount "$mnt" || fail "$mnt cannot be unmounted"
mounts=()
verify

step "Discard what is deleted"
mount "$device" "$mnt" || fail "$device cannot be mounted"
rm "$mnt/load" && sed -i '$d' "$work/sums"
run fstrim -v "$mnt"
umount "$mnt" || fail "$mnt cannot be unmounted"

step "Stop, start with the four disks that are left, verify"
stop_array
until_true 10 test ! -e "/sys/block/${first_device##*/}" || fail "$first_device is still there"
start_array "${disks[0]}" "${disks[2]}" "${disks[3]}" "${disks[5]}"
expect "state" "$(status_of .state)" = degraded
check_fs
verify
stop_array

summary "On $(uname -sr), too: killed under load, two disks lost, and every byte is there."
