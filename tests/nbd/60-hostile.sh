#!/bin/bash
# Clients that mean harm, or are broken: whatever they send or leave out, others are served, the
# content stays what it was, and the daemon's memory stays within what docs/architecture.md says.
# shellcheck source=tests/nbd/array.sh
. "$(dirname "$0")/array.sh"
need nbdinfo nbdcopy nbdsh python3
export PYTHONDONTWRITEBYTECODE=1

make a raid6 4 2 96M
start a
u=$(uri a)
pid=$(pid_of a)

# The hostile clients write beyond the first 32 MiB alone, where they are allowed to.
head -c $((32 << 20)) /dev/urandom >"$work/want"
nbdcopy "$work/want" "$u"
nbdcopy "$u" "$work/read" # the daemon's buffers are warm
rm "$work/read"
memory() { awk -v what="$1:" '$1 == what {print $2}' "/proc/$pid/status"; }

# attack NAME LIMIT_MIB : at its peak, memory may have grown by so much since before the first attack.
before=$(memory VmRSS)
attack() {
	local grown
	python3 "$here/hostile.py" "$work/run/a.nbd" "$1" || die "$1"
	[ "$(pid_of a)" = "$pid" ] && kill -0 "$pid" || die "the daemon ended after: $1"
	[ "$(nbdinfo --size "$u")" = "$(status a .size_bytes)" ] || die "it serves no more after: $1"
	grown=$((($(memory VmHWM) - before) / 1024))
	step "$1: memory grew by $grown MiB at its peak since the beginning (at most $2 are allowed)"
	((grown <= $2)) || die "memory"
}

# What one connection may use while nothing of it is a request's data, 144 times, is far below 48
# MiB; freed buffers that are kept are warm already.
attack garbage 48
attack halves 48
attack bounds 48
attack options 48
attack flood 48
# All connections with all the data that one may have under way: 16 x 16 MiB, and as much again for
# buffers that reads and replies work with. What was freed may stay with the allocator, so it is
# done twice: the second time needs nothing new.
attack deaf 512
attack deaf 512

step "the content is what it was"
same a "$work/want"
expect 0 "$EK" status a --test
stop a
start a
same a "$work/want"
stop a
step "done"
