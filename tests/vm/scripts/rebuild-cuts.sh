#!/bin/bash
# What the machine does whose power tests/vm/rebuild-cuts cuts in the middle of a rebuild, boot after boot:
# on a RAID-6 with an ext4 under load a member fails, and a spare is filled slowly in its place. Each boot
# after a cut looks for all that was synced, and that the rebuild goes on where it was; the last one lets it
# end, and then has pairs of members be lost, so that each is once, or every pair.
#
# In $EVENKEEL_OUT, which no cut reaches:
#
#   boot          number=, of this boot, from 0; cuts=, how many there are; every=1, every pair
#   verdict       written here by the last boot, or by whichever finds a promise broken
#   working       made here when a part of the new disk was filled in this boot: the cut may come
#   told          what this boot has seen, in a line
#   sums          checksums of what was written before all else
#   acks.NUMBER   what was synced in that boot, as said by those who had it synced
#   left          bytes that the rebuild had left to write when this was last looked at
#   noted, sure   stripes of the new disk that are written down as filled, durably, and at least how many
#                 bytes that are, of all boots
#
# The disks 0 to 5 are the members, disk 1 fails, and disk 6 is the spare.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"
# shellcheck source-path=SCRIPTDIR source=cut.sh
. "${BASH_SOURCE[0]%/*}/cut.sh"
# shellcheck source=/dev/null
. "$out/boot"

members=("${disks[0]}" "${disks[@]:2:4}")
gone=${disks[1]} spare=${disks[6]}
# slow LEFT: what is left takes some minutes, so it is not through when the cut comes.
slow() { echo "--rebuild-rate=$(($1 / 80))"; }

# filled: how far the new disk is filled, as it says itself.
filled() { "$evenkeel" examine --json "$spare" | jq '[.[0].members[].filled_stripes // 0] | max'; }
# stored: bytes that every member has.
stored() { status_of '.stripes.mapped * .chunk_bytes'; }
written() { awk '{ print $7 * 512 }' "/sys/block/${spare##*/}/stat"; }
tell() {
	say "$*"
	echo "$*" >"$out/told"
}

# holds: everything that was synced in any boot is there, as the disks have it.
holds() {
	local n
	sync -f "$mnt"
	echo 3 >/proc/sys/vm/drop_caches
	(cd "$mnt" && sha256sum -c --quiet "$out/sums") >"$work/sums.out" 2>&1 ||
		broken "checksums" "what was written before all else is not there: $(head -n 3 "$work/sums.out")"
	for ((n = 0; n < number; n++)); do
		must "records" power records-check "$mnt/records.$n" "$n" "$out/acks.$n"
	done
	ok "all $(wc -l <"$out/sums") files of the beginning are there, and what was synced in $number boots"
}

begin() {
	local i
	stage "An array with a file system"
	volatile_caches
	run "$evenkeel" create "$array" --level raid6 --spare "$spare" "${disks[@]:0:6}"
	start "$array" run "$evenkeel" start "$(slow $((7 << 20)))" "${disks[@]}"
	run mkfs.ext4 -q -E nodiscard "$device"
	mount_it
	mkdir "$mnt/files"
	for ((i = 0; i < 40; i++)); do head -c $((7 + i * 26123)) /dev/urandom >"$mnt/files/$i"; done
	(cd "$mnt" && sha256sum files/*) >"$out/sums"
	# Only written over later, so that there is no more to rebuild by it.
	head -c 4M /dev/urandom >"$mnt/rare"
	sync -f "$mnt"
	run "$evenkeel" wait "$array" destage

	stage "A member fails, the spare takes over"
	run "$evenkeel" fail "$array" "$gone"
	until_true 20 is_state rebuilding || fail "the spare does not take over: $(status_of .state)"
	tell "boot 0: $(status_of .rebuild.total_bytes) bytes are to be written to the spare"
	at_start=0
	echo 0 >"$out/sure"
}

# again: the array after a cut.
again() {
	local text left kept mine=("$(slow "$(<"$out/left")")")
	stage "Start after cut $number"
	at_start=$(filled)
	[ "$at_start" -ge "$(<"$out/noted")" ] ||
		broken "progress" "of $(<"$out/noted") stripes that were filled and written down, the new disk knows $at_start"
	[ "$number" -lt "$cuts" ] || mine=()
	written_before=$(written)
	start "$array" must "start" "$evenkeel" start "${mine[@]}" "${members[@]}" "$spare"
	told_of() { text=$(grep -F "the rebuild of $spare that had not ended goes on" "$run_dir/$array.log"); }
	until_true 20 told_of || broken "progress" "the rebuild does not go on: $(status_of .state)"
	left=$(sed -n 's/.*goes on; \([0-9]*\) bytes are left.*/\1/p' <<<"$text")
	kept=$(($(stored) - left))
	[ $kept -ge "$(<"$out/sure")" ] ||
		broken "progress" "$left bytes are left of $(stored), although $(<"$out/sure") were written, and written down"
	tell "boot $number: $at_start stripes were written down; $left bytes are left, $kept need not be written again"
	# Without a rate it may be through by now.
	[ "$number" = "$cuts" ] || expect "disks that it can lose" "$(status_of .can_lose)" = 1

	stage "Look for everything that was synced"
	must "mount" mount "$device" "$mnt"
	mounts+=("$mnt")
	holds
}

load() {
	stage "The load"
	run power records-init "$mnt/records.$number" "$number"
	: >"$out/acks.$number"
	job power records "$mnt/records.$number" "$number" "$out/acks.$number"
	rarely_synced 4m "$number"
	# What examine shows may not be flushed yet; what it showed before that is. And a mark that is new covers
	# at least what was done at the look before.
	local last=$at_start last_bytes=0 noted=$at_start noted_bytes=0 done_bytes=0
	far_enough() {
		local at left before=$done_bytes
		read -r done_bytes left < <(status_of '.rebuild // {} | "\(.done_bytes // 0) \((.total_bytes // 0) - (.done_bytes // 0))"')
		at=$(filled)
		echo "$left" >"$out/left"
		if [ "$at" -gt "$last" ]; then noted=$last noted_bytes=$last_bytes last=$at last_bytes=$before; fi
		[ "$noted_bytes" -ge $(((done_bytes + left) / 8)) ] && [ "$left" -gt 0 ]
	}
	until_true 120 far_enough || fail "the rebuild does not get on, or is through: $(status_of .)"
	until_true 60 promised "$out/acks.$number" || fail "nothing is synced"
	echo "$noted" >"$out/noted"
	echo $(($(<"$out/sure") + noted_bytes)) >"$out/sure"
	cut_may_come
}

# without I J: what a reader finds when these two members are lost.
without() {
	local rest=("${members[@]}")
	unset "rest[$1]" "rest[$2]"
	start "$array" must "start" "$evenkeel" start --read-only "${rest[@]}"
	must "mount" mount -o ro,noload "$device" "$mnt"
	mounts+=("$mnt")
	holds
	umount_it
	must "stop" "$evenkeel" stop "$array"
}

finish() {
	local pairs='01 23 45' pair by_rebuild total
	[ "$every" = 0 ] || pairs='01 02 03 04 05 12 13 14 15 23 24 25 34 35 45'
	stage "The rebuild ends"
	must "rebuild" "$evenkeel" wait "$array" rebuild --timeout 170
	by_rebuild=$(($(written) - written_before))
	is_state healthy || broken "rebuild" "the state is $(status_of .state)"
	expect "disks that it can lose" "$(status_of .can_lose)" = 2
	expect "the disk of member 1" "$(status_of '.members[1].path')" = "$spare"
	# From the beginning it would have been all of it.
	total=$(stored)
	[ "$by_rebuild" -lt "$total" ] || broken "progress" "$by_rebuild bytes were written to the new disk, of $total"
	ok "$by_rebuild bytes were written to the new disk in this boot, of $total"
	holds
	umount_it

	stage "Check the file system, scrub"
	must "fsck" e2fsck -fn "$device"
	must "scrub" "$evenkeel" scrub "$array" --check-only
	must "scrub" "$evenkeel" wait "$array" scrub
	[ "$(status_of .scrub.mismatches)" = 0 ] || broken "scrub" "the scrub finds $(status_of .scrub.mismatches) blocks wrong"
	[ "$(status_of '[.members[].checksum_errors] | add')" = 0 ] || broken "scrub" "blocks were wrong: $(status_of .members)"
	ok "nothing on the disks is wrong"
	must "stop" "$evenkeel" stop "$array"

	stage "Without two members"
	members+=("$spare")
	for pair in $pairs; do without "${pair:0:1}" "${pair:1}"; done
	tell "boot $number: $by_rebuild bytes of $total were written; every file is there without two members (of 0 to 5: $pairs)"
	echo "held" >"$out/verdict"
	summary "$(<"$out/told")"
}

if [ "$number" = 0 ]; then begin; else again; fi
if [ "$number" -lt "$cuts" ]; then load; else finish; fi
