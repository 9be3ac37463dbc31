#!/bin/bash
# Members that fail together and come back, natively, as with a controller or a cable: more of them than
# the array may lose. It waits, writes again what they may have lost, and goes on; no client sees
# an error, and nobody is failed. If they stay away, it answers EIO within the bound, and a later start
# finds all of them. A start that a disk does not answer goes on without it.
# shellcheck source=tests/nbd/array.sh
. "$(dirname "$0")/array.sh"
# shellcheck source=tests/nbd/broken.sh
. "$(dirname "$0")/broken.sh"
need nbdcopy nbdsh jq
needs_fuse "this"

# three NAME KIND : makes a RAID-6 of 4+2 in members=, three of its members of this kind.
three() {
	local i
	members=()
	for i in 0 1 2; do
		"$2" "$1$i"
		members+=("$(disk_of "$1$i")" "$work/disks/$1.$i")
	done
	truncate -s 64M "$work"/disks/"$1".{0,1,2}
	expect 0 "$EK" create "$1" --level raid6 "${members[@]}"
}
each() { # each COMMAND NAME : for its three members
	local i
	for i in 0 1 2; do "$1" "$2$i"; done
}
go_bad() { touch "$work/fuse/$1/bad-read" "$work/fuse/$1/bad-write"; }
no_writes() { touch "$work/fuse/$1/bad-write"; }
get_well() { rm -f "$work/fuse/$1"/bad-*; }

# during NAME SECONDS BREAK MEND COMMAND... : breaks the three under the command, and mends them after
# so long; the command must succeed and wait until then.
during() {
	local name=$1 seconds=$2 break=$3 mend=$4 job
	shift 4
	"$@" &
	job=$!
	sleep 0.3
	each "$break" "$name"
	sleep "$seconds"
	kill -0 $job 2>/dev/null || die "$* ended before the members were back"
	each "$mend" "$name"
	wait $job || die "an error reached the client: $*"
}
# unhurt NAME COUNT : all members are active, the COUNTth wait is told, and the content is right.
unhurt() {
	expect 0 "$EK" status "$1" --test
	[ "$(status "$1" .can_lose)" = 2 ] || die "can_lose is $(status "$1" .can_lose)"
	[ "$(grep -c "members failed at once" "$work/run/$1.log")" = "$2" ] || die "it did not wait $2 times"
	[ "$(grep -c "All members are back" "$work/run/$1.log")" = "$2" ] || die "they did not come back"
	intact "$1"
}
long_writes() { odd_writes "$1" "$work/want.$1" "$2" 400 300000 && nbdsh -u "$(uri "$1")" -c "h.flush()"; }
copies() { # copies NAME : whole stripes for more than a second
	local until=$((SECONDS + 2))
	while [ $SECONDS -lt $until ]; do nbdcopy --flush "$work/want.$1" "$(uri "$1")" || return; done
}

step "three of six give errors for some seconds, under small and odd writes"
three errors error_disk
start errors "${members[@]}"
fill errors
during errors 3 go_bad get_well long_writes errors 1
unhurt errors 1
step "it says: $(grep "members failed at once" "$work/run/errors.log")"
step "it says: $(grep "All members are back" "$work/run/errors.log")"

step "they refuse writes alone, under whole stripes"
head -c $((24 << 20)) /dev/urandom >"$work/want.errors"
during errors 2 no_writes get_well copies errors
unhurt errors 2

step "they stay away: EIO when the bound is over, and a later start finds all of them"
kill9 errors
start errors --io-timeout 2
each go_bad errors
began=$SECONDS
nbdsh -u "$(uri errors)" -c - <<-PYTHON || die "a write was taken"
	import nbd
	try:
	    h.pwrite(b"x" * 4096, 0)
	    h.flush()
	except nbd.Error as e:
	    assert e.errno == "EIO", e
	else:
	    raise SystemExit(1)
PYTHON
took=$((SECONDS - began))
[ $took -ge 1 ] && [ $took -le 8 ] || die "EIO came after $took s"
expect 2 "$EK" status errors --test
said errors "" "tolerates no more"
kill9 errors
each get_well errors
start errors
expect 0 "$EK" status errors --test
# The write that was refused may be there or not.
dd if=/dev/zero of="$work/want.errors" bs=4096 count=1 conv=notrunc status=none
nbdsh -u "$(uri errors)" -c "h.pwrite(bytes(4096), 0)"
intact errors
stop errors

step "they hang, are given up, and answer late: what hung ends before anything is written again"
three silent hanging_file
start silent --io-timeout 1 "${members[@]}"
fill silent
during silent 3 hang resume long_writes silent 4
unhurt silent 1
writes silent 5
kill9 silent

step "a start leaves a silent disk out, by name"
hang silent1
start silent --io-timeout 1 "${members[@]}"
grep -q "Warning: .*silent1.* did not answer" "$work/run/silent.log" || die "$(cat "$work/run/silent.log")"
[ "$(status silent '[.members[].state] | join(" ")')" = "active active missing active active active" ] ||
	die "$(status silent '[.members[].state] | join(" ")')"
intact silent
