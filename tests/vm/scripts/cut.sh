# What the scripts here share whose machine loses its power, again and again. Sourced, by bash, after
# lib.sh; run by tests/vm/power-cuts and tests/vm/rebuild-cuts.
#
#   out                  a directory that no cut reaches: $EVENKEEL_OUT
#   disks, mnt           the disks; where a file system goes
#   broken WHAT TEXT     a promise was not kept: says so in $out/verdict, and ends
#   stage TITLE          a step, and when
#   must WHAT COMMAND... what must succeed after a cut; what it said is in $work/must.out
#   start NAME COMMAND...  starts the array by this command, and sets device=
#   volatile_caches      every disk must have one: else there would be nothing to lose
#   job COMMAND...       in the background
#   rarely_synced SIZE SEED  writes to a file of this size on $mnt, as a job, with rare syncs: there is
#                        much to lose
#   promised ACKS        something of each kind was synced
#   cut_may_come         says that the cut may come, and waits for it
# shellcheck shell=bash

out=${EVENKEEL_OUT:?a directory that survives; run this by a script of tests/vm}
read -ra disks <<<"${EVENKEEL_DISKS:?disks}"
mnt=$work/mnt
mkdir -p "$mnt"

broken() {
	echo "broken: $1" >"$out/verdict"
	fail "$2"
}
stage() { step "$1 (at $(now) s)"; }
must() {
	local what=$1 rc=0 began
	began=$(now)
	shift
	printf '    $ %s\n' "$(quoted "$@")"
	timeout 240 "$@" >"$work/must.out" 2>&1 </dev/null || rc=$?
	indent <"$work/must.out"
	say "($(since "$began") s)"
	[ $rc = 0 ] || broken "$what" "exit status $rc: $(quoted "$@")"
}
start() {
	"${@:2}"
	device=/dev/evenkeel/$1
	until_true 10 test -b "$device" || fail "no $device"
	device=$(readlink -f "$device")
}
volatile_caches() {
	local disk
	for disk in "${disks[@]}"; do
		[ "$(cat "/sys/block/${disk##*/}/queue/write_cache")" = "write back" ] || fail "$disk has no volatile cache"
	done
	ok "every disk has a volatile cache"
}
job() {
	"$@" &
	jobs_running+=($!)
}
rarely_synced() {
	job fio --name=rare --eta=never --filename="$mnt/rare" --size="$1" --rw=randwrite --bsrange=4k-64k --ioengine=libaio \
		--iodepth=8 --direct=1 --fsync=500 --time_based --runtime=600 --rate_iops=300 --randseed="$2" \
		--fallocate=none --output="$work/fio-rare.log"
}
promised() { [ "$(cut -d' ' -f1 "$1" 2>/dev/null | sort -u | wc -l)" -ge 3 ]; }
cut_may_come() {
	say "The power may be cut."
	: >"$out/working"
	# Whoever ends has met an error.
	wait -n "${jobs_running[@]}"
	fail "a part of the load ended: $(tail -n 3 "$work"/*.log)"
}
