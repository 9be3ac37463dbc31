#!/bin/bash
# Disks that go, each in another way, while fio writes: pulled from the virtual machine, removed from the
# PCI and from the SCSI bus, set offline, replaced by errors, switched off. Two RAID-6 over virtio,
# SCSI, device mapper and null_blk disks: of each two may go, and a third one is too many, unless it comes
# back soon.
#
#   tests/vm/boot --disks 4 --size 64M --unplug tests/vm/scripts/40-disks-that-go.sh
#
# boot: --disks 4 --size 64M --unplug --limit 400
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"
. "${BASH_SOURCE[0]%/*}/load.sh"

# --- the disks -----------------------------------------------------------------------------------

disk_exists() { test -b "$1"; }
sectors() { blockdev --getsz "$1"; }
all_scsi() { scsi=(/dev/sd?) && [ ${#scsi[@]} = 4 ]; }
null_node() { # null_node NAME: where the null_blk disk of this name is
	if [ -b "/dev/$1" ]; then echo "/dev/$1"; else echo "/dev/nullb$(cat "/sys/kernel/config/nullb/$1/index")"; fi
}
make_disks() {
	local i at
	read -ra virtio <<<"$EVENKEEL_DISKS"
	modprobe -a sd_mod dm-mod || fail "modules are missing"
	modprobe scsi_debug dev_size_mb=64 per_host_store=1 add_host=4 || fail "no scsi_debug"
	modprobe null_blk nr_devices=0 || fail "no null_blk"
	null=() mapped=()
	for i in 0 1 2 3; do
		at=/sys/kernel/config/nullb/null$i
		mkdir "$at" || fail "null_blk gives no disk"
		echo 64 >"$at/size" && echo 1 >"$at/memory_backed" && echo 1 >"$at/power" || fail "null_blk gives no disk"
		null+=("$(null_node null$i)")
	done
	for i in 2 3; do
		dmsetup create "mapped$i" --table "0 $(sectors "${virtio[i]}") linear ${virtio[i]} 0" || fail "no device mapper"
		mapped+=("/dev/mapper/mapped$i")
	done
	until_true 20 all_scsi || fail "no SCSI disks"
}
table() { # table NAME TABLE: exchanges a mapped disk's table, as it is in use
	dmsetup suspend --noflush --nolockfs "$1" && dmsetup load "$1" --table "$2" && dmsetup resume "$1" ||
		fail "the table of $1 cannot be exchanged"
}

# go HOW DISK: it goes.
go() {
	local name=${2##*/}
	case $1 in
	"pulled (QMP device_del)") pull "$2" ;;
	"removed from the PCI bus") echo 1 >"$(readlink -f "/sys/block/$name/device/..")/remove" ;;
	"deleted from the SCSI bus") echo 1 >"/sys/block/$name/device/delete" ;;
	"set offline (SCSI)") echo offline >"/sys/block/$name/device/state" ;;
	"replaced by errors (device mapper)") table "$name" "0 $(sectors "$2") error" ;;
	"switched off (null_blk)") echo 0 >"/sys/kernel/config/nullb/${2##*/}/power" ;;
	*) fail "how?" ;;
	esac
	say "$2 is $1, with $busy writes on the way."
}

# --- what is checked -----------------------------------------------------------------------------

# Three pieces of the device: what was written and flushed, what was only acknowledged, and fio's.
write_pattern() { # write_pattern FILE OFFSET-MIB DD-OPTION...
	head -c 4M /dev/urandom >"$work/$1"
	dd if="$work/$1" of="$device" bs=1M seek="$2" oflag=direct status=none "${@:3}" || fail "$device cannot be written"
}
holds() { # holds FILE OFFSET-MIB
	dd if="$device" bs=1M skip="$2" count=4 iflag=direct status=none | cmp -s - "$work/$1" ||
		fail "$device does not hold what was written ($1)"
}
said() { # said DISK TEXT: a sentence in the log that has both
	grep -F "$1 failed" "$run_dir/$array.log" | grep -qF "$2" || fail "the log does not say \"$1 failed\" and \"$2\""
}
state_of() { status_of "[.members[] | select(.path == \"$1\")][0].state"; }
is_failed() { [ "$(state_of "$1")" = failed ]; }

# goes HOW DISK LEFT: a disk goes that may go. LEFT more may, after it.
goes() {
	local index
	wait_busy
	go "$1" "$2"
	until_true 30 is_failed "$2" || fail "the array does not notice that $2 is gone"
	ok "$2 is failed"
	expect "disks that it can lose" "$(status_of .can_lose)" = "$3"
	said "$2" "recorded on the other members"
	say "It says: $(grep -F "$2 failed" "$run_dir/$array.log")"
	index=$(status_of "[.members[] | select(.path == \"$2\")][0].index")
	expect "what another disk says of it" "$("$evenkeel" examine --json "$survivor" | jq -r ".[0].members[$index].state")" = failed
	load_goes_on
	holds flushed 0
	ok "fio goes on and reads back all that it wrote; what was written before is there"
}

# exceeds HOW DISK: a third disk goes, and that is too many.
exceeds() {
	local i good=0 bad=0 rc=0
	write_pattern acknowledged 4
	wait_busy
	go "$1" "$2"
	load_fails
	is_state failed || fail "the state is $(status_of .state)"
	"$evenkeel" status "$array" --test || rc=$?
	expect "status --test" $rc = 2
	said "$2" "tolerates no more"
	if dd if=/dev/zero of="$device" bs=64k count=1 seek=200 oflag=direct status=none 2>/dev/null; then fail "a write is taken"; fi
	ok "no write is taken"
	for ((i = 0; i < 32; i++)); do
		if ! dd if="$device" of="$work/piece" bs=64k skip=$i count=1 iflag=direct status=none 2>/dev/null; then
			bad=$((bad + 1))
		elif cmp -s -n 65536 "$work/piece" "$work/flushed" 0 $((i * 65536)); then
			good=$((good + 1))
		else
			fail "wrong data at $((i * 65536))"
		fi
	done
	expect "chunks of 32 that can still be read, and are right" $good -ge 8
	expect "chunks that give EIO" $bad -ge 1
	rc=0
	"$evenkeel" stop "$array" --force >"$work/stop.out" 2>&1 || rc=$?
	indent <"$work/stop.out"
	expect "evenkeel stop" $rc = 1
	until_true 60 test ! -e "$run_dir/$array.pid" || fail "the daemon does not end"
}
# back DISK...: a start with these, where one of them had been too many.
back() {
	start_array "$@"
	is_state degraded || fail "the state is $(status_of .state)"
	expect "disks that it can lose" "$(status_of .can_lose)" = 0
	holds flushed 0
	holds acknowledged 4
	ok "all that was flushed is there, and all that was acknowledged"
}
begin() { # begin NAME DISK...
	array=$1
	run "$evenkeel" create "$array" --level raid6 "${@:2}"
	# What is too many is waited for that long.
	start_array --io-timeout 4 "${@:2}"
	write_pattern flushed 0 conv=fsync
	load "$array" "$device" --offset=16m --size=4m
}

# --- the story -----------------------------------------------------------------------------------

echo "Disks that go, on $(uname -sr)."

step "Twelve disks of four kinds"
make_disks
say "virtio ${virtio[*]}; SCSI ${scsi[*]}; null_blk ${null[*]}; mapped ${mapped[*]}"

step "A RAID-6 over virtio, SCSI and null_blk, with fio writing"
survivor=${null[0]}
begin buses "${virtio[0]}" "${virtio[1]}" "${scsi[0]}" "${scsi[1]}" "${null[0]}" "${null[1]}"

step "A virtio disk is pulled"
goes "pulled (QMP device_del)" "${virtio[0]}" 1

step "A SCSI disk is deleted"
goes "deleted from the SCSI bus" "${scsi[0]}" 0

step "A third one, removed from the PCI bus, is too many"
exceeds "removed from the PCI bus" "${virtio[1]}"

step "Three are too few; with the third one back, everything is there"
rc=0
"$evenkeel" start "${scsi[1]}" "${null[0]}" "${null[1]}" >"$work/start.out" 2>&1 || rc=$?
indent <"$work/start.out"
expect "evenkeel start" $rc = 10
echo 1 >/sys/bus/pci/rescan
again=$(by_serial disk1)
[ -b "$again" ] || fail "it did not come back"
back "$again" "${scsi[1]}" "${null[0]}" "${null[1]}"
stop_array

step "A RAID-6 over SCSI, device mapper and null_blk, with fio writing"
survivor=${null[3]}
begin errors "${scsi[2]}" "${scsi[3]}" "${mapped[0]}" "${mapped[1]}" "${null[2]}" "${null[3]}"

step "Three of them fail together, and are back after two seconds"
write_pattern acknowledged 4
wait_busy
# The table takes longer to exchange than the array waits for others.
table mapped2 "0 $(sectors "${mapped[0]}") error"
for disk in "${scsi[2]}" "${scsi[3]}"; do echo offline >"/sys/block/${disk##*/}/device/state"; done
say "Two are offline and one gives errors, with $busy writes on the way."
sleep 2
for disk in "${scsi[2]}" "${scsi[3]}"; do echo running >"/sys/block/${disk##*/}/device/state"; done
table mapped2 "0 $(sectors "${virtio[2]}") linear ${virtio[2]} 0"
load_goes_on
for text in "members failed at once" "All members are back"; do
	grep -qF "$text" "$run_dir/$array.log" || fail "the log does not say \"$text\""
	say "It says: $(grep -F "$text" "$run_dir/$array.log")"
done
is_state healthy || fail "the state is $(status_of .state)"
expect "disks that it can lose" "$(status_of .can_lose)" = 2
holds flushed 0
holds acknowledged 4
ok "fio goes on and reads back all that it wrote, nobody is failed, and all is there"

step "A SCSI disk is set offline"
goes "set offline (SCSI)" "${scsi[2]}" 1

step "A mapped disk gives errors, but no error for a flush"
goes "replaced by errors (device mapper)" "${mapped[0]}" 0

step "A third one, switched off, is too many"
exceeds "switched off (null_blk)" "${null[2]}"

step "All come back: the third is taken, the first two are left out"
echo running >"/sys/block/${scsi[2]##*/}/device/state"
table mapped2 "0 $(sectors "${virtio[2]}") linear ${virtio[2]} 0"
echo 1 >/sys/kernel/config/nullb/null2/power
again=$(null_node null2)
until_true 10 disk_exists "$again" || fail "it did not come back"
back "${scsi[2]}" "${scsi[3]}" "${mapped[0]}" "${mapped[1]}" "$again" "${null[3]}"
expect "the members" "$(status_of '[.members[].state] | join(" ")')" = "failed active failed active active active"
stop_array

summary "Six disks went in six ways. Two went unnoticed by whoever wrote, the third one gave errors, and nothing wrong was read."
