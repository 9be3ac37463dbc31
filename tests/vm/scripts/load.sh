# A load for the scripts here: fio, pass after pass, which writes at random, 16 requests at a time, then
# reads it back and checks every block. Sourced, after lib.sh.
#
#   load NAME FILE FIO-OPTION...   in the background, on FILE, until load_ends or load_fails; returns when
#                        writes are in flight
#   wait_busy            until several writes are in flight on device=, as seen at this very moment; sets
#                        busy=
#   load_goes_on         until a whole pass has begun and ended after this call
#   load_ends            the same, then the end; all of it without an error
#   load_fails           until fio has ended, which must be by an error
# shellcheck shell=bash

load() {
	load_name=$1
	shift
	rm -f "$work/load.stop"
	echo 0 >"$work/load.passes"
	load_passes "$@" &
	load_pid=$!
	jobs_running+=("$load_pid")
	wait_busy
}
load_passes() {
	local pass=0 pid file=$1
	shift
	trap 'kill -9 "$pid"; exit 1' TERM
	while [ ! -e "$work/load.stop" ]; do
		pass=$((pass + 1))
		fio --name="$load_name" --filename="$file" "$@" --rw=randwrite --bsrange=4k-32k \
			--ioengine=libaio --iodepth=16 --direct=1 --verify=crc32c --verify_fatal=1 --do_verify=1 \
			--randseed=$pass --fallocate=none --output="$work/fio-$load_name.log" </dev/null >"$work/fio-$load_name.out" 2>&1 &
		pid=$!
		wait $pid || exit 1
		grep -q 'err= 0' "$work/fio-$load_name.log" || exit 1
		echo $pass >"$work/load.passes.new"
		mv "$work/load.passes.new" "$work/load.passes"
	done
}
passes() { cat "$work/load.passes"; }
load_alive() { kill -0 "$load_pid" 2>/dev/null; }
wait_busy() {
	local writes end=$((SECONDS + 60))
	busy=0
	while [ "$busy" -lt 4 ]; do
		read -r _ writes <"/sys/block/${device##*/}/inflight"
		busy=$writes
		load_alive || fail "fio ended: $(tail -n 3 "$work/fio-$load_name.out")"
		[ $SECONDS -lt $end ] || fail "fio keeps no writes in flight"
	done
}
load_goes_on() {
	local target
	target=$(($(passes) + 2))
	more_passes() { [ "$(passes)" -ge "$target" ] || ! load_alive; }
	until_true 180 more_passes || fail "fio does not get on"
	load_alive || fail "fio ended with an error: $(cat "$work/fio-$load_name.out")"
}
load_ends() {
	load_goes_on
	touch "$work/load.stop"
	wait "$load_pid" || fail "fio ended with an error: $(cat "$work/fio-$load_name.out")"
	jobs_running=()
	say "The last pass:"
	grep -E '^ +(read|write):' "$work/fio-$load_name.log" | indent
	ok "fio went on, read back all that it wrote in $(passes) passes, and saw no error"
}
load_fails() {
	load_dead() { ! load_alive; }
	until_true 60 load_dead || fail "fio goes on, or hangs"
	wait "$load_pid" && fail "fio saw no error"
	jobs_running=()
	grep -q 'Input/output error' "$work/fio-$load_name.out" "$work/fio-$load_name.log" ||
		fail "fio ended by another error than EIO: $(cat "$work/fio-$load_name.out")"
	grep -q 'verify: bad' "$work/fio-$load_name.out" && fail "fio read something wrong"
	ok "fio got EIO, and nothing wrong before it"
}
