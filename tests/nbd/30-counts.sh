#!/bin/bash
# Exact counts at the members of a 4+2 array: how many bytes are written to the disks for a byte
# that the user wrote. Counted by the kernel (/proc/PID/io, write_bytes: members are opened past
# the page cache, so what is written there is counted when it is written), the destage included.
# shellcheck source=tests/nbd/array.sh
. "$(dirname "$0")/array.sh"
need fio jq awk
fio --enghelp 2>/dev/null | grep -qw nbd || die "this fio has no nbd engine"

written() { awk '/^write_bytes/ {print $2}' "/proc/$(pid_of "$1")/io"; }

# fio's nbd engine spins when its server is gone, so it is never left alone.
run_fio() { # NAME OPTION...
	local name=$1
	shift
	timeout -s INT -k 4 240 fio --name=counts --ioengine=nbd --uri="$(uri "$name")" --group_reporting \
		--output-format=json --output="$work/fio.json" "$@" >"$work/fio.log" 2>&1 ||
		{ tail -n 20 "$work/fio.log" >&2; die "fio ended with $?"; }
	jq -e '.jobs[0].error == 0' "$work/fio.json" >/dev/null || die "fio saw an error"
}

bad=0
# check WHAT LIMIT : by the counters before and after the last run. Fails if it is more.
check() {
	local user ratio
	user=$(jq '.jobs[0].write.io_bytes' "$work/fio.json")
	ratio=$(awk -v b="$before" -v a="$after" -v u="$user" 'BEGIN {printf "%.3f", (a - b) / u}')
	if awk -v r="$ratio" -v l="$2" 'BEGIN {exit !(r > 0 && r <= l)}'; then
		step "$1: $ratio member bytes a user byte (at most $2)"
	else
		step "$1: $ratio member bytes a user byte, MORE THAN $2"
		return 1
	fi
}

# measure NAME OPTION... : runs fio, then brings everything to its place.
measure() {
	local name=$1
	before=$(written "$name")
	run_fio "$@"
	"$EK" wait "$name" destage --timeout 120
	after=$(written "$name")
}

make c raid6 4 2 1G
start c --ack cached
measure c --rw=write --bs=1M --iodepth=8 --size=256M --end_fsync=1
check "256 MiB of 1 MiB sequential writes, QD8, cached" "$(awk 'BEGIN {print 1.03 * 6 / 4}')" || bad=1

# The hot set is a quarter of the cache. Its stripes are warmed first, so that the run alone is
# counted.
cache=$(status c .cache.size_bytes)
hot=$((cache / 4 / 1048576))M
run_fio c --rw=write --bs=1M --iodepth=8 --size="$hot"
"$EK" wait c destage --timeout 120
# A commit holds what came while the one before was written: less, where fio has to wait for a
# processor that others use. What counts is what it takes undisturbed, so it may be tried again.
for try in 1 2 3; do
	measure c --rw=randwrite --bs=4k --iodepth=32 --size="$hot" --io_size=256M --norandommap --randseed=5
	check "4 KiB random writes over $hot, QD32, cached" 2.0 && break
	[ "$try" = 3 ] && bad=1
done
stop c

start c --ack durable
measure c --rw=randwrite --bs=4k --iodepth=1 --size=1M --io_size=32M --norandommap --randseed=6
check "4 KiB random writes over 1M, one at a time, durable" 6.5 || bad=1
stop c
exit "$bad"
