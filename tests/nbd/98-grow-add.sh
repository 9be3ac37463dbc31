#!/bin/bash
# Growing by more data columns over NBD, under load. What is refused before, and that it changes nothing; a client
# that stays connected, writes and reads all the time and sees no error; the size as old and new clients see it;
# old data, and the new space to its last byte, whichever member is lost afterwards. `kill -9` at any moment of
# the verb and in the middle of moving stripes, again and again; a stop, an upgrade and a failed member there.
# A disk that is gone when it is to become a member, and an array that cannot be started again.
#
# $KILLS (default 3) is how often the daemon is killed while stripes are moved, $SIZE the size of a member then (192M).
# shellcheck source=tests/nbd/array.sh
. "$(dirname "$0")/array.sh"
need nbdcopy nbdsh nbdinfo jq flock prlimit mkfs.ext4

d=$work/disks
kills=${KILLS:-3} large=${SIZE:-192M}
size() { nbdinfo --size "$(uri "$1")"; }
said() { grep -qF -- "$1" "$work/err" || die "\"$1\" is not said: $(cat "$work/err")"; }
members() { status "$1" '[.members[] | "\(.role) \(.state) \(.path)"] | join(", ")'; }
# refused CODE NAME TEXT DISK... : growing by these is, with this text, and nothing has changed.
refused() {
	local code=$1 name=$2 text=$3 before
	shift 3
	before=$(members "$name")$(size "$name")$(cat "$work/run/$name.disks")
	expect "$code" "$EK" grow "$name" --add "$@"
	said "$text"
	grep -qE "Nothing was (changed|written)" "$work/err" || die "that nothing was changed is not said: $(cat "$work/err")"
	[ ! -s "$work/out" ] || die "an answer, though it was refused"
	[ "$before" = "$(members "$name")$(size "$name")$(cat "$work/run/$name.disks")" ] || die "something has changed: $before, $(members "$name")"
}
# widened NAME K BEFORE DISK... : the answer in $work/out is right; sets after=.
widened() {
	local name=$1 k=$2 before=$3
	shift 3
	after=$(jq .after_bytes "$work/out")
	jq -e --argjson k "$k" --argjson n $# --argjson before "$before" --arg socket "$work/run/$name.nbd" --arg disks "$*" \
		'.data_before == $k and .data == $k + $n and .before_bytes == $before and .via == "nbd" and .device == $socket and
		(.added | join(" ")) == $disks and (.note | test("in the background"))' "$work/out" >/dev/null || die "answer: $(cat "$work/out")"
	((after > before)) || die "from $before to $after bytes"
	[ "$(status "$name" .data)" = $((k + $#)) ] || die "the status says another shape"
	step "$name is to have $after bytes, not $before; requests waited for $(jq .waited_ms "$work/out") ms"
}
# moved NAME : waits until all stripes are moved; the size is $after then.
moved() {
	expect 0 "$EK" wait "$1" grow --timeout 120
	[ "$(status "$1" '[.size_bytes, .grow] | join(" ")')" = "$after " ] || die "$(status "$1" '.size_bytes, .grow'), not $after"
	[ "$(size "$1")" = "$after" ] || die "a client is told $(size "$1"), not $after"
	grep -q "has grown from .* to $after bytes" "$work/run/$1.log" || die "the log does not say that it has grown"
}
new_want() { head -c "$1" /dev/urandom >"$work/want"; }
# use_all NAME : what the want file does not reach to is written, odd writes anywhere; then compared.
use_all() {
	local before
	before=$(stat -c %s "$work/want")
	head -c $((after - before)) /dev/urandom >>"$work/want"
	nbdsh -u "$(uri "$1")" -c - <<-PYTHON
		with open("$work/want", "rb") as f:
		    for at in range($before, $after, 1 << 20):
		        f.seek(at)
		        h.pwrite(f.read(min(1 << 20, $after - at)), at)
	PYTHON
	odd_writes "$1" "$work/want" 7 60 400000
	same "$1" "$work/want"
}
scrubbed() {
	expect 0 "$EK" wait "$1" scrub
	expect 0 "$EK" scrub "$1"
	expect 0 "$EK" wait "$1" scrub
	[ "$(status "$1" '[.scrub.mismatches, .scrub.unrepairable] | join(" ")')" = "0 0" ] || die "$(status "$1" .scrub)"
}
fresh() { for disk; do rm -f "$disk"; truncate -s "${fresh:-64M}" "$disk"; done; }

step "what is refused"
fresh "$d/x" "$d/y"
expect 2 "$EK" grow m --add
expect 1 "$EK" grow m --add "$d/x"
said "No array \"m\" runs here"
expect 0 make other raid5 2 1 32M
expect 0 make m raid5 2 1 64M
start m --read-only
refused 1 m "read-only" "$d/x"
stop m
start m
new_want $((32 << 20))
nbdcopy "$work/want" "$(uri m)"
fresh=63M fresh "$d/small"
refused 15 m "$d/small has 66060288 bytes" "$d/small"
refused 15 m "$d/small has 66060288 bytes" "$d/x" "$d/small"
refused 16 m "a member of the array \"other\"" "$d/x" "$d/other.0"
refused 12 m "is given twice" "$d/x" "$d/x"
ln "$d/x" "$d/again"
refused 12 m "the same disk" "$d/x" "$d/again"
rm "$d/again"
refused 12 m "in the array already" "$d/m.0"
refused 1 m "does not exist" "$d/none"
printf 'a file system, perhaps' | dd of="$d/y" bs=1 conv=notrunc status=none
mkfs.ext4 -q -F "$d/y"
refused 16 m "ext" "$d/y"
fresh "$d/y"
exec 9<"$d/x"
flock 9
refused 13 m "holds it" "$d/x"
exec 9<&-
expect 0 "$EK" fail m "$d/m.2"
refused 1 m "Member 2 ($d/m.2) is failed" "$d/x"
expect 0 "$EK" add m "$d/m.2"
rebuilt m
expect 0 make r raid1 1 1 64M
start r
refused 2 r "A raid1 has one data column" "$d/x"
stop r
same m "$work/want"

step "a disk more, under load; a client that stays connected"
before=$(size m)
load m 100
nbdsh -u "$(uri m)" -c - <<-PYTHON
	import nbd, random, subprocess
	r, want = random.Random(5), {}
	first = h.get_size() - (8 << 20)
	# One request after the other: each has to be answered, and well. The load writes below.
	grow = subprocess.Popen(["$EK", "grow", "m", "--add", "$d/x", "--json"], stdout=open("$work/out", "w"))
	wait, turns = None, 0
	while wait is None or wait.poll() is None or turns < 200:
	    block, data = r.randrange(2000), r.randbytes(16) * 256
	    h.pwrite(data, first + 4096 * block)
	    want[block] = data
	    block = r.choice(list(want))
	    assert h.pread(4096, first + 4096 * block) == want[block], block
	    if turns % 50 == 0:
	        h.flush()
	    turns += 1
	    if wait is None and grow.poll() is not None:
	        assert grow.returncode == 0, grow.returncode
	        wait = subprocess.Popen(["$EK", "wait", "m", "grow", "--timeout", "120"])
	assert wait.returncode == 0, wait.returncode
	for block, data in want.items():
	    assert h.pread(4096, first + 4096 * block) == data, block
	assert h.get_size() == $before
	new = nbd.NBD()
	new.connect_uri("$(uri m)")
	assert new.get_size() > $before, new.get_size()
	new.pwrite(b"tail", new.get_size() - 4)
	assert new.pread(4, new.get_size() - 4) == b"tail"
	print(turns, "turns")
PYTHON
enough
widened m 2 "$before" "$d/x"
moved m
same m "$work/want"
use_all m
scrubbed m
grep -q "grows to 3 data and 1 parity chunks" "$work/run/m.log" || die "the log does not say that it grows"
every_loss m
[ "$(size m)" = "$after" ] || die "after all that it has another size"

step "and again, by two disks, one of which is a spare"
fresh "$d/z"
before=$after
expect 0 "$EK" add m "$d/y"
expect 0 "$EK" grow m --add "$d/z" "$d/y" --json
widened m 3 "$before" "$d/z" "$d/y"
moved m
use_all m
scrubbed m
every_loss m
stop m

step "kill -9 $kills times while stripes are moved, a stop and an upgrade besides"
sizes=$large
expect 0 make s raid6 3 2 "$sizes"
start s --rebuild-rate 96M
before=$(size s)
new_want $((before / (1 << 20) * (1 << 20) - (4 << 20)))
nbdcopy "$work/want" "$(uri s)"
expect 0 "$EK" wait s destage
fresh=$sizes fresh "$d/s.x"
expect 0 "$EK" grow s --add "$d/s.x" --json
widened s 3 "$before" "$d/s.x"
middles=0
# in_the_middle : stripes are being moved just now, some of them are.
in_the_middle() {
	local at
	while at=$(status s '.grow | select(. != null) | .done_bytes') && [ -n "$at" ]; do
		if ((at > last)); then
			last=$at
			middles=$((middles + 1))
			return 0
		fi
	done
	return 1
}
last=0
for ((i = 0; i < kills; i++)); do
	in_the_middle || break
	kill9 s
	odd=$((200 + i))
	start s --rebuild-rate 96M
	odd_writes s "$work/want" "$odd" 3 300000
done
# meanwhile COMMAND... : refused (1) while stripes are moved; else too small (15), or begun.
meanwhile() {
	local got=0
	"$@" >"$work/out" 2>"$work/err" || got=$?
	if [ "$(status s .grow)" != null ] && [ $got != 1 ]; then die "exit code $got in the middle: $*"; fi
	[ $got = 0 ] || [ $got = 1 ] || [ $got = 15 ] || die "exit code $got: $(cat "$work/err")"
}
if in_the_middle; then
	fresh=32M fresh "$d/s.y"
	meanwhile "$EK" grow s --add "$d/s.y"
	meanwhile "$EK" grow s --size
	meanwhile "$EK" scrub s
fi
if in_the_middle; then expect 0 "$EK" upgrade s; fi
if in_the_middle; then
	stop s
	start s
fi
((middles > 0)) || die "it was never seen in the middle"
step "seen $middles times in the middle, by byte $last the last time"
same s "$work/want"
moved s
same s "$work/want"
use_all s
scrubbed s
stop s
start s
[ "$(size s)" = "$after" ] || die "after a stop it has another size"
stop s
rm -f "$d"/s.*

step "the daemon is killed at any moment of the verb: the one shape or the other, and all data"
expect 0 make k raid5 2 1 64M
start k
new_want $((48 << 20))
nbdcopy "$work/want" "$(uri k)"
shapes=''
for ms in 2 5 10 15 20 30 40 50 60 80 100 150; do
	fresh "$d/k.new$ms"
	was=$(status k .data)
	"$EK" grow k --add "$d/k.new$ms" >/dev/null 2>"$work/err" &
	sleep "0.$(printf %03d $ms)"
	kill9 k
	wait $! || grep -q . "$work/err" || die "a failure without a word"
	start k
	odd_writes k "$work/want" $ms 5 200000
	same k "$work/want"
	[ "$(status k .state)" = healthy ] || die "a disk is missing: $(members k)"
	shapes+=" $((($(status k .data) - was)))"
	expect 0 "$EK" wait k grow --timeout 120
	# Where it was taken in and no more, it is a spare.
	for spare in $(status k '.members[] | select(.state == "spare") | .path'); do expect 0 "$EK" remove k "$spare"; done
done
step "columns more after each:$shapes"
after=$(size k)
use_all k
scrubbed k
every_loss k
stop k

step "a disk is gone when it is to become a member: before the array is stopped, and when it has been"
expect 0 make g raid5 2 1 64M
start g
before=$(size g)
new_want $((32 << 20))
nbdcopy "$work/want" "$(uri g)"
fresh "$d/g.x" "$d/g.y"
expect 0 "$EK" add g "$d/g.x"
load g 300
truncate -s 1M "$d/g.x"
expect 1 "$EK" grow g --add "$d/g.x" "$d/g.y"
said "only a spare can become a member"
said "evenkeel remove g $d/g.y"
expect 0 "$EK" remove g "$d/g.x"
truncate -s 1M "$d/g.y"
expect 1 "$EK" grow g --add "$d/g.y"
said "It goes on as it was, and nothing is lost"
enough
[ "$(status g '[.state, .data, .size_bytes, .grow] | join(" ")')" = "healthy 2 $before " ] || die "$(status g .)"
same g "$work/want"
fresh "$d/g.z"
expect 0 "$EK" add g "$d/g.z"

step "the array cannot be started again: the daemon says so and ends, and the next start goes on"
pid=$(pid_of g)
# One descriptor is free, for the connection of who asks.
free=0
while [ -e "/proc/$pid/fd/$free" ]; do free=$((free + 1)); done
prlimit --pid "$pid" --nofile=$((free + 1))
expect 1 "$EK" grow g --add "$d/g.z"
said "could not be started again"
said "Its daemon ends, as by kill -9. Nothing that was acknowledged is lost."
hint=$(grep -o 'evenkeel start g .*' "$work/err")
while kill -0 "$pid" 2>/dev/null; do sleep 0.01; done
expect 4 "$EK" status g --test
# shellcheck disable=SC2086 # as it is to be typed
expect 0 "$EK" ${hint#evenkeel }
[ "$(status g .data)" = 3 ] || die "it has another shape: $(status g .)"
expect 0 "$EK" wait g grow --timeout 120
after=$(size g)
((after > before)) || die "it has not grown"
use_all g
scrubbed g
stop g

step "a member fails while stripes are moved, and a disk takes its place"
expect 0 make f raid6 2 2 "$large"
start f
before=$(size f)
new_want $((before / (1 << 20) * (1 << 20) - (4 << 20)))
nbdcopy "$work/want" "$(uri f)"
fresh=$large fresh "$d/f.x" "$d/f.y"
expect 0 "$EK" grow f --add "$d/f.x" --json
widened f 2 "$before" "$d/f.x"
expect 0 "$EK" fail f "$d/f.1"
same f "$work/want"
moved f
expect 0 "$EK" add f "$d/f.y"
rebuilt f
use_all f
scrubbed f
every_loss f
stop f
rm -f "$d"/f.*

step "journal devices behind the members, no checksums"
expect 0 make j rs 2 2 64M --no-checksums --journal "$d/j.log" --journal "$d/j.log2"
start j
before=$(size j)
new_want $((32 << 20))
nbdcopy "$work/want" "$(uri j)"
fresh "$d/j.x"
expect 0 "$EK" grow j --add "$d/j.x" --json
widened j 2 "$before" "$d/j.x"
kill9 j
start j
moved j
use_all j
every_loss j
stop j
start j
[ "$(size j)" = "$after" ] || die "after a stop it has another size"
truncate -s 96M "$d/j.x" "$d"/j.[0-3]
expect 0 "$EK" grow j --size
fresh=96M fresh "$d/j.y"
refused 17 j "grow --size" "$d/j.y"
same j "$work/want"
stop j
step "all identical"
