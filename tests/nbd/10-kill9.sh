#!/bin/bash
# Over NBD: what was acknowledged survives kill -9 of the daemon, the loss of as many members as
# the level tolerates, and a start with the rest alone.
# shellcheck source=tests/nbd/array.sh
. "$(dirname "$0")/array.sh"
need nbdcopy nbdsh jq

head -c $((48 << 20)) /dev/urandom >"$work/data"

for level in "raid5 3 1" "raid6 4 2" "rs 4 3"; do
	read -r code k m <<<"$level"
	name=$code
	step "$code $k+$m: 48 MiB of random data, then small writes, nothing flushed"
	make "$name" "$code" "$k" "$m" 96M
	start "$name"
	cp "$work/data" "$work/want"
	nbdcopy "$work/want" "$(uri "$name")"
	odd_writes "$name" "$work/want" 1 200 300000

	step "$code: kill -9, start, read back"
	kill9 "$name"
	expect 4 "$EK" status "$name" --test
	start "$name"
	same "$name" "$work/want"
	expect 0 "$EK" status "$name" --test

	step "$code: $m of $((k + m)) members fail, with small writes before, between and after"
	odd_writes "$name" "$work/want" 2 200 300000
	for ((i = 0; i < m; i++)); do
		"$EK" fail "$name" "$work/disks/$name.$((2 * i))"
		odd_writes "$name" "$work/want" $((3 + i)) 200 300000
	done
	same "$name" "$work/want"
	expect 1 "$EK" status "$name" --test
	[ "$(status "$name" .can_lose)" = 0 ] || die "can_lose is not 0"
	expect 1 "$EK" fail "$name" "$work/disks/$name.1"

	step "$code: kill -9 while degraded, start, read back"
	kill9 "$name"
	start "$name"
	same "$name" "$work/want"
	stop "$name"

	step "$code: start with the remaining disks alone, read back, write, stop, read back again"
	rest=()
	for ((i = 0; i < k + m; i++)); do
		if ((i % 2 == 0 && i / 2 < m)); then
			rm "$work/disks/$name.$i"
		else
			rest+=("$work/disks/$name.$i")
		fi
	done
	start "$name" "${rest[@]}"
	same "$name" "$work/want"
	expect 1 "$EK" status "$name" --test
	odd_writes "$name" "$work/want" 9 200 300000
	stop "$name"
	start "$name" "${rest[@]}"
	same "$name" "$work/want"
	stop "$name"
	expect 4 "$EK" status "$name" --test
	rm -f "$work/disks/$name".*
done
step "all identical"
