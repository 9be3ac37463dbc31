#!/bin/bash
# Linux agrees with our RAID-6. Slots are laid out as the stripes of md's default, left-symmetric (only
# one stripe further: our slot 0 is its stripe 1), and P and Q are the same bytes. So md is put over the
# slots of a stopped array, without any metadata of its own: its check must find P and Q of every
# stripe right, it must read our data, and it must compute our data where two of the disks are gone.
#
#   tests/vm/boot --disks 6 --size 48M tests/vm/scripts/35-linux-raid6.sh
#
# boot: --disks 6 --size 48M --limit 300
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"

read -ra disks <<<"${EVENKEEL_DISKS:-}"
[ ${#disks[@]} -ge 6 ] || fail "six disks are needed, and only ${#disks[@]} are here"
disks=("${disks[@]:0:6}")
chunk=65536 stripe=$((4 * 65536)) count=10
modprobe -q raid456 || {
	echo "skipped: this kernel has no raid456"
	exit 77
}
md=/sys/block/md99/md

# put FILE VALUE: into a file of md's.
put() { echo "$2" >"$md/$1" || fail "md does not take $2 as $1"; }

# md_over STATE SLOT...: md over the disks in these slots of its, the others being gone; then in STATE.
md_over() {
	local state=$1 slot name
	shift
	[ -e "$md" ] || echo md99 >/sys/module/md_mod/parameters/new_array || fail "no md device can be made"
	put level raid6
	put raid_disks 6
	put chunk_size $chunk
	put layout 2
	put component_size $((slots_bytes / 1024))
	put resync_start none
	for slot in "$@"; do
		name=${disks[slot]##*/}
		put new_dev "$(cat "/sys/block/$name/dev")"
		put "dev-$name/offset" $((slots_at / 512))
		put "dev-$name/slot" "$slot"
	done
	put array_state "$state"
	until_true 10 test "$(blockdev --getsize64 /dev/md99 2>/dev/null || echo 0)" -gt 0 || fail "md does not start"
}
md_ends() {
	put array_state clear
	until_true 10 test ! -e /dev/md99 || fail "md does not end"
}
# stripes FILE NUMBER: a checksum for each stripe in it.
stripes() {
	local i
	for ((i = 0; i < $2; i++)); do
		dd if="$1" bs=$stripe skip="$i" count=1 status=none iflag=direct | md5sum
	done
}
# mismatches: of a check by md of all but its stripe 0, which is not ours.
mismatches() {
	put sync_min $((chunk / 512))
	put sync_action check
	is_idle() { [ "$(cat "$md/sync_action")" = idle ]; }
	until_true 120 is_idle || fail "md's check does not end"
	cat "$md/mismatch_cnt"
}

step "Fill a RAID-6 of six disks: whole stripes, then parts of stripes"
run "$evenkeel" create "$array" --level raid6 --chunk 64K --log-size 2M "${disks[@]}"
slots_at=$("$evenkeel" examine "${disks[0]}" --json | jq '.[0].areas[] | select(.area == "slots") | .offset')
slots_bytes=$("$evenkeel" examine "${disks[0]}" --json | jq '.[0].areas[] | select(.area == "slots") | .bytes')
# One chunk earlier, so that our slot 0 is md's stripe 1.
slots_at=$((slots_at - chunk)) slots_bytes=$(((slots_bytes / chunk + 1) * chunk))
start_array "${disks[@]}"
head -c $((count * stripe)) /dev/urandom >"$work/data"
run dd if="$work/data" of="$device" bs=$stripe oflag=direct status=none
for i in 2 5 8; do
	dd if=/dev/urandom of="$device" bs=4k seek=$((i * 64 + i)) count=3 oflag=direct status=none || fail "dd"
done
run "$evenkeel" wait "$array" destage
stripes "$device" $count | sort -u >"$work/ours"
expect "different stripes" "$(wc -l <"$work/ours")" = $count
expect "stripes in slots" "$(status_of .stripes.mapped)" = $count
stop_array

step "Linux checks P and Q of every stripe"
md_over active 0 1 2 3 4 5
expect "sectors that md finds wrong" "$(mismatches)" = 0
say "It checked $((slots_bytes / chunk - 1)) stripes."
# How many of our stripes it sees, wherever they lie.
total=$(($(blockdev --getsize64 /dev/md99) / stripe))
seen=$((total < count + 4 ? total : count + 4))
stripes /dev/md99 "$seen" >"$work/theirs"
found() { sort -u "$1" | comm -12 - "$work/ours" | wc -l; }
expect "of our $count stripes, md reads" "$(found "$work/theirs")" = $count
md_ends

step "Linux computes our data where two disks are gone"
for gone in '0 1' '1 4' '2 5'; do
	read -r a b <<<"$gone"
	left=()
	for i in 0 1 2 3 4 5; do [ "$i" = "$a" ] || [ "$i" = "$b" ] || left+=("$i"); done
	md_over readonly "${left[@]}"
	stripes /dev/md99 "$seen" >"$work/without"
	expect "without disks $a and $b, of our $count stripes md reads" "$(found "$work/without")" = $count
	md_ends
done

step "The check can fail: one byte of one disk is changed"
at=$((slots_at + 5 * chunk + 1234))
byte=$(dd if="${disks[2]}" bs=1 skip=$at count=1 status=none | xxd -p)
printf "\\x$(printf %02x $((0x$byte ^ 1)))" | dd of="${disks[2]}" bs=1 seek=$at conv=notrunc status=none
sync "${disks[2]}"
md_over active 0 1 2 3 4 5
expect "sectors that md finds wrong" "$(mismatches)" -gt 0
md_ends

summary "Linux finds our P and Q right, and computes our data from them."
