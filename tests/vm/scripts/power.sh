#!/bin/bash
# What the machine does whose power tests/vm/power-cuts cuts: looks at what the last cut left, then
# puts arrays, a file system and a load on the disks, and goes on until it is cut.
#
# In $EVENKEEL_OUT, which no cut reaches:
#
#   check, work   plans: bash assignments as power-cuts makes them; each may be missing
#   acks.ROUND    what was synced in the round, as said by those who had it synced
#   verdict       written here: "held: WHAT WAS THERE" or "broken: WHAT"
#   working       made here when the load runs: the cut may come
#
# The disks 0 to 5 are the first array; 6 to 8 are its journal devices, or a second array, or unused.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"
# shellcheck source-path=SCRIPTDIR source=cut.sh
. "${BASH_SOURCE[0]%/*}/cut.sh"

# requests DISK: how much it was asked for.
requests() { awk '{ print " " $1 + $5 + $12 + $16 }' "/sys/block/${1##*/}/stat"; }
# members FIRST LAST: those of the disks that are here, of these numbers.
members() {
	local i
	for ((i = $1; i <= $2; i++)); do
		case " $lost " in *" $i "*) ;; *) echo "${disks[i]}" ;; esac
	done
}

# --- after a cut ---------------------------------------------------------------------------------

check() {
	local i state gone=0 before='' after='' data_gone=0 found can_lose mismatches names=() jobs=() left others accept=()
	stage "Round $round: $level $data+$parity, $fs, after the cut, without the disks:${lost:- none}"
	for i in $lost; do
		[ "$i" -lt 6 ] && data_gone=$((data_gone + 1))
		[ "$i" -lt $((6 + journals)) ] && gone=$((gone + 1))
		before+=$(requests "${disks[i]}")
	done

	stage "Start"
	mapfile -t left < <(members 0 $((5 + journals)))
	if [ $data_gone -ge "$data" ]; then
		# Those that are away could have gone on by themselves: that takes a word, once.
		i=0
		[ "$twice" != 0 ] || timeout 60 "$evenkeel" start "${left[@]}" >"$work/start.out" 2>&1 </dev/null || i=$?
		if [ "$twice" = 0 ] && [ $i != 10 ]; then
			indent <"$work/start.out"
			broken "start" "with $data_gone disks away, that were enough by themselves, start ended with status $i"
		fi
		accept=(--accept-missing)
	fi
	if [ "$second" != none ]; then
		mapfile -t others < <(members 6 8)
		start second must "start" "$evenkeel" start "${others[@]}"
		second_device=$device
	fi
	start "$array" must "start" "$evenkeel" start --ack "$ack" "${accept[@]}" "${left[@]}"
	[ "$(status_of '[.members[] | select(.state != "active")] | length')" = $gone ] ||
		broken "status" "not $gone members are absent: $(status_of '[.members[].state] | join(" ")')"
	state=healthy
	[ $gone = 0 ] || state=degraded
	is_state $state || broken "status" "the state is $(status_of .state), not $state"
	can_lose=$((parity - data_gone))
	if [ "$journals" != 0 ]; then
		i=$((journals - 1 - gone + data_gone))
		[ $i -lt $can_lose ] && can_lose=$i
	fi
	[ "$(status_of .can_lose)" = $can_lose ] ||
		broken "status" "can_lose is $(status_of .can_lose), not $can_lose"
	ok "$gone disks are absent, it is $state, and $can_lose more may go"
	replayed=$(status_of '.replay | "\(.commits) commits, \(.bytes) bytes of them, \(.torn_tail_bytes) bytes of a torn tail"')
	say "Replayed: $replayed."

	stage "Mount: the file system replays its own log"
	must "mount" mount "$device" "$mnt"
	mounts+=("$mnt")

	stage "Look for everything that was synced"
	must "records" power records-check "$mnt/records" "$seed" "$out/acks.$round"
	found=$(<"$work/must.out")
	mapfile -t names < <(sed -n 's/^fio //p' "$out/acks.$round")
	if [ ${#names[@]} -gt 0 ]; then
		for i in "${names[@]}"; do jobs+=("--name=$i" "--filename=$mnt/fio/$i" "--randseed=$i"); done
		must "fio" fio --output-format=terse --terse-version=3 --ioengine=psync --rw=write --bs=16k --size=1m --verify=crc32c \
			--verify_fatal=1 --verify_only=1 "${jobs[@]}"
		ok "fio verifies the ${#names[@]} files that it had synced"
	fi
	must "unmount" umount "$mnt"
	unset 'mounts[-1]'

	stage "Check the file system"
	if [ "$fs" = ext4 ]; then
		must "fsck" e2fsck -fn "$device"
	else
		must "fsck" xfs_repair -n "$device"
	fi
	ok "the file system is consistent"

	stage "Scrub"
	must "scrub" "$evenkeel" scrub "$array" --check-only
	must "scrub" "$evenkeel" wait "$array" scrub
	mismatches=$(status_of .scrub.mismatches)
	[ "$mismatches" = 0 ] || broken "scrub" "the scrub finds $mismatches blocks wrong"
	ok "nothing on the disks is wrong"

	case $second in
	mkfs)
		stage "The array on which a file system was being made"
		must "second" dd if="$second_device" of=/dev/null bs=1M iflag=direct status=none
		must "second" mkfs.ext4 -q -F "$second_device"
		must "second" e2fsck -fn "$second_device"
		ok "all of it can be read, and another file system is made there"
		found+="; mkfs goes again"
		;;
	blocks)
		stage "The array that was written to block by block"
		must "blocks" power blocks-check "$second_device" "$seed" "$out/acks.$round"
		found+="; bare: $(<"$work/must.out")"
		ok "it holds a prefix of the writes, and all that was synced"
		;;
	esac

	stage "Stop"
	[ "$second" = none ] || must "stop" "$evenkeel" stop second
	must "stop" "$evenkeel" stop "$array"
	for i in $lost; do after+=$(requests "${disks[i]}"); done
	[ "$before" = "$after" ] || broken "lost" "a disk that was not given to it was used: $before, $after"
	echo "held: $found, ${#names[@]} of fio" >"$out/verdict"
}

# --- a load --------------------------------------------------------------------------------------

fio_files() {
	local i
	for ((i = 1; ; i++)); do
		fio --name=$i --filename="$mnt/fio/$i" --randseed=$i --ioengine=psync --rw=write --bs=16k --size=1m \
			--verify=crc32c --do_verify=0 --end_fsync=1 >"$work/fio-files.log" 2>&1 </dev/null || return 1
		# The file is synced; so shall be its name.
		sync "$mnt/fio" || return 1
		echo "fio $i" >>"$out/acks.$round"
		# There shall be much that is not synced.
		sleep 3
	done
}
mkfs_again() {
	while mkfs.ext4 -q -F "$second_device" >"$work/mkfs.log" 2>&1 </dev/null; do :; done
	return 1
}

load() {
	local disk all=("${disks[@]:0:6}") create=(--level "$level" --data "$data" --parity "$parity")
	stage "Round $round: $level $data+$parity, $fs, ack $ack, $journals journal devices, second array: $second"
	volatile_caches
	if [ "$second" != none ]; then
		run "$evenkeel" create second --force --level raid5 "${disks[@]:6:3}"
		start second run "$evenkeel" start "${disks[@]:6:3}"
		second_device=$device
	fi
	if [ "$journals" != 0 ]; then
		create+=(--log-size 16M)
		for disk in "${disks[@]:6:journals}"; do create+=(--journal "$disk"); done
	fi
	run "$evenkeel" create "$array" --force "${create[@]}" "${all[@]}"
	start "$array" run "$evenkeel" start --ack "$ack" "${all[@]}" "${disks[@]:6:journals}"
	if [ "$fs" = ext4 ]; then run mkfs.ext4 -q -F "$device"; else run mkfs.xfs -q -f "$device"; fi
	mount_it
	mkdir "$mnt/fio"
	run power records-init "$mnt/records" "$seed"
	[ "$second" = blocks ] && run power blocks-init "$second_device"

	stage "The load"
	: >"$out/acks.$round"
	job power records "$mnt/records" "$seed" "$out/acks.$round"
	rarely_synced 24m "$seed"
	job fio_files
	[ "$second" = blocks ] && job power blocks "$second_device" "$seed" "$out/acks.$round"
	[ "$second" = mkfs ] && job mkfs_again
	until_true 60 promised "$out/acks.$round" || fail "nothing is synced"
	cut_may_come
}

if [ -e "$out/check" ]; then
	# shellcheck source=/dev/null
	. "$out/check"
	check
	[ -e "$out/work" ] || exit 0
fi
# shellcheck source=/dev/null
. "$out/work"
load
