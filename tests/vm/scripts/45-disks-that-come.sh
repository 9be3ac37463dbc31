#!/bin/bash
# Disks that are pulled under fio on a mounted ext4, and what takes their places: one of five (RAID-5),
# where a spare takes over by itself; the same disk put back, which gets only what it missed; then two of
# six (RAID-6), both put back, while a third one is overwritten with garbage.
#
#   tests/vm/boot --disks 6 --size 96M --unplug tests/vm/scripts/45-disks-that-come.sh
#
# boot: --disks 6 --size 96M --unplug --limit 400
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"
. "${BASH_SOURCE[0]%/*}/load.sh"

mnt=$work/mnt
mkdir -p "$mnt"
start_options=()
read -ra disks <<<"$EVENKEEL_DISKS"

state_of() { status_of "[.members[] | select(.path == \"$1\")][0].state"; }
is_failed() { [ "$(state_of "$1")" = failed ]; }
# notices DISK: its failure is recorded, or a spare has its place already.
notices() {
	noticed() { grep -qF "$1 failed" "$run_dir/$array.log"; }
	until_true 60 noticed "$1" || fail "the array does not notice that $1 is gone"
	say "It says: $(grep -F "$1 failed" "$run_dir/$array.log" | tail -n 1)"
}
rebuilt() {
	run "$evenkeel" wait "$array" rebuild --timeout 170
	is_state healthy || fail "the state is $(status_of .state)"
	ok "the array is healthy"
}
# copied MEMBER: bytes that the last rebuild of this member had to copy.
copied() { sed -n "s/.*the rebuild of .* begins: \([0-9]*\) bytes.*/\1/p" "$run_dir/$array.log" | tail -n 1; }
stored() { status_of '.stripes.mapped * .chunk_bytes'; }
# holds: the tree that was written first is there, as the disks have it.
holds() {
	sync -f "$mnt"
	echo 3 >/proc/sys/vm/drop_caches
	cmp "$mnt/content" "$work/content" || fail "what was written first is not there"
	ok "what was written first is there"
}
begin() { # begin LEVEL DISK-OPTION...
	run "$evenkeel" create "$array" --level "$@"
	start_array "${start_options[@]}" "$array"
	run mkfs.ext4 -q -E nodiscard "$device"
	mount_it
	head -c 24M /dev/urandom >"$work/content"
	cp "$work/content" "$mnt/content"
	sync -f "$mnt"
	load "$array" "$mnt/fio" --size=8m
}
end() {
	load_ends
	holds
	umount_it
	run fsck.ext4 -fn "$device"
	stop_array
}

echo "Disks that come, on $(uname -sr)."

step "A RAID-5 of five disks and a spare, ext4 on it, fio writing"
begin raid5 --spare "${disks[5]}" "${disks[@]:0:5}"

step "One of five is pulled: the spare takes over by itself"
wait_busy
pull "${disks[1]}"
say "${disks[1]} is pulled, with $busy writes on the way."
notices "${disks[1]}"
rebuilt
expect "the disk of member 1" "$(status_of '.members[1].path')" = "${disks[5]}"
expect "disks that it can lose" "$(status_of .can_lose)" = 1
load_goes_on
holds

step "Another one is pulled, and put back: it gets what it missed, and only that"
run "$evenkeel" wait "$array" destage
wait_busy
pull "${disks[3]}"
notices "${disks[3]}"
load_goes_on
put_back disk3
say "It is $again now."
run "$evenkeel" add "$array" "$again"
grep -q "is member 3 of \"$array\" again" "$work/run.out" || fail "it is not recognised"
rebuilt
expect "bytes copied, of $(stored)" "$(copied 3)" -lt $(($(stored) * 2 / 3))
expect "the disk of member 3" "$(status_of '.members[3].path')" = "$again"
disks[3]=$again
load_goes_on
holds

step "The first one, whose place is taken, comes back as a spare"
put_back disk1
run "$evenkeel" add "$array" "$again"
disks[1]=$again
expect "its state" "$(state_of "$again")" = spare
end
run "$evenkeel" destroy "${disks[@]}"

step "A RAID-6 of six disks, ext4 on it, fio writing"
array=tank
# So that there is time to write garbage before all is filled.
start_options=(--rebuild-rate 256K)
begin raid6 "${disks[@]}"

step "Two of six are pulled"
wait_busy
pull "${disks[0]}"
pull "${disks[4]}"
say "${disks[0]} and ${disks[4]} are pulled, with $busy writes on the way."
notices "${disks[0]}"
notices "${disks[4]}"
expect "disks that it can lose" "$(status_of .can_lose)" = 0
load_goes_on
holds

step "Both are put back; while the second one is filled, a third disk gets garbage over its slots"
put_back disk0
disks[0]=$again
put_back disk4
disks[4]=$again
run "$evenkeel" add "$array" "${disks[0]}"
rebuilt_first() { [ "$(state_of "${disks[0]}")" = active ]; }
until_true 120 rebuilt_first || fail "${disks[0]} is not active"
at=$("$evenkeel" examine --json "${disks[2]}" | jq '.[0].areas[] | select(.area == "slots") | .offset / 1048576 | ceil')
run "$evenkeel" add "$array" "${disks[4]}"
# Only now: what is not overwritten before it is rebuilt would not be looked at.
dd if=/dev/urandom of="${disks[2]}" bs=1M seek="$at" count=3 oflag=direct conv=notrunc status=none || fail "no garbage"
say "3 MiB from MiB $at of ${disks[2]} are garbage."
expect "the array" "$(status_of .state)" = rebuilding
rebuilt
expect "disks that it can lose" "$(status_of .can_lose)" = 2
load_goes_on
holds
run "$evenkeel" scrub "$array"
run "$evenkeel" wait "$array" scrub
expect "blocks that were wrong on ${disks[2]}" "$(status_of '.members[2].checksum_errors')" -gt 0
expect "blocks beyond repair" "$(status_of '.scrub.unrepairable')" = 0
run "$evenkeel" scrub "$array" --check-only
run "$evenkeel" wait "$array" scrub
expect "blocks that are still wrong" "$(status_of '.scrub.mismatches')" = 0
end

summary "Four disks were pulled and put back, a fifth got garbage, and fio and ext4 noticed nothing."
