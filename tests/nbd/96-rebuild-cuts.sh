#!/bin/bash
# The power of all disks goes in the middle of a rebuild, again and again: they lose, reorder and tear
# what was not flushed, at one instant. The rebuild goes on where it was, what was flushed is there, and
# afterwards everything is there whichever member is lost.
#
# The disks are files of nbdfuse over the server of tests/vm/power-cuts, which holds what is written as
# volatile until a flush. It is skipped without that (cargo build --release -p evenkeel-tests --bin power).
# shellcheck source=tests/nbd/array.sh
. "$(dirname "$0")/array.sh"
need nbdcopy nbdsh nbdfuse jq
power=$(dirname "$EK")/power
[ -x "$power" ] || { echo "skipped: there is no $power"; exit 77; }

cuts=${CUTS:-4}
images=$work/images d=$work/disks
server='' fuses=()
mkdir "$images"
truncate -s 96M "$images"/disk{0..4}
mkfifo "$work/commands"

# on SEED: the disks are switched on.
on() {
	local i
	rm -f "$work/server.log" "$work/power"
	"$power" serve --socket "$work/power" --seed "$1" "$images"/disk{0..4} <"$work/commands" >"$work/server.log" 2>&1 &
	server=$!
	exec 8>"$work/commands"
	for ((i = 0; i < 100; i++)); do
		if grep -qs ready "$work/server.log"; then break; fi
		sleep 0.05
	done
	fuses=()
	for i in 0 1 2 3 4; do
		: >"$d/disk$i"
		nbdfuse "$d/disk$i" "nbd+unix:///disk$i?socket=$work/power" 8>&- 2>>"$work/fuse.log" &
		fuses+=($!)
		disown
	done
	for i in 0 1 2 3 4; do
		for ((n = 0; n < 100; n++)); do
			if mountpoint -q "$d/disk$i"; then break; fi
			sleep 0.05
		done
		mountpoint -q "$d/disk$i" || die "disk$i is not there: $(tail -n 3 "$work/fuse.log" "$work/server.log")"
	done
}
# off: what is left of a server whose power was cut, or that is to write everything.
off() {
	local i
	exec 8>&-
	wait "$server" || true
	server=
	for i in 0 1 2 3 4; do umount "$d/disk$i" 2>/dev/null || umount -l "$d/disk$i" || true; done
}
# shellcheck disable=SC2317 # called by the trap
all_down() {
	local code=$? pid
	if pid=$(pid_of c 2>/dev/null); then kill -9 "$pid" 2>/dev/null || true; fi
	if [ -n "$server" ]; then kill -9 "$server" 2>/dev/null || true; fi
	for i in 0 1 2 3 4; do umount -l "$d/disk$i" 2>/dev/null || true; done
	(exit "$code")
	take_down
}
trap all_down EXIT
# no_memory: what was in memory went with the power: the ring, and the run directory.
no_memory() {
	local ring
	ring=$("$EK" examine --json "$images/disk0" | jq -r '.[0].ring' | tr -d -)
	rm -f /dev/shm/evenkeel-*/ring-"$ring"
	rm -rf "$work/run"
	mkdir "$work/run"
}
was_cut() { grep -q '^cut: ' "$work/server.log"; }

head -c $((24 << 20)) /dev/urandom >"$work/want"
step "a member of four has failed, another disk is being filled"
on 1
expect 0 "$EK" create c --level raid5 "$d"/disk{0..3}
# The fifth is named for its mount alone.
start c --rebuild-rate 1M "$d"/disk{0..4}
nbdcopy --flush "$work/want" "$(uri c)"
expect 0 "$EK" wait c destage
expect 0 "$EK" fail c "$d/disk1"
expect 0 "$EK" add c "$d/disk4"

lost=0 filled=0 on_the_way=0
for ((cut = 1; cut <= cuts; cut++)); do
	[ "$(status c .state)" = healthy ] || on_the_way=$((on_the_way + 1))
	odd_writes c "$work/want" "$cut" 10 50000
	nbdsh -u "$(uri c)" -c "h.flush()"
	# Behind what is compared: nobody was promised any of it.
	nbdsh -u "$(uri c)" -c "
import random
r = random.Random($cut)
try:
    for i in range(200):
        h.pwrite(r.randbytes(r.choice([4096, 65536, 200704])), 4096 * r.randrange(24 << 8, 40 << 8))
except nbd.Error:
    pass
" &
	writer=$!
	echo "cut $((cut * 37 % 90))" >&8
	for ((i = 0; i < 300; i++)); do
		if was_cut; then break; fi
		sleep 0.1
	done
	was_cut || die "cut $cut: it did not happen"
	# What waits for the disks gets errors, or the daemon could not end.
	kill -9 "${fuses[@]}" 2>/dev/null || true
	kill9 c
	wait "$writer" || true
	lost=$((lost + $(sed -n 's/^cut: .*\blost=\([0-9]*\).*/\1/p' "$work/server.log")))
	off
	no_memory
	before=$filled
	filled=$("$EK" examine --json "$images/disk4" | jq '[.[0].members[] | .filled_stripes // 0] | max')
	step "cut $cut: $filled stripes were written down; $(sed -n 's/^cut: //p' "$work/server.log")"
	((filled >= before)) || die "cut $cut: it was at $before, and now $filled"
	on $((cut + 1))
	start c --rebuild-rate 1M "$d"/disk{0..4}
	same c "$work/want"
done
((lost > 0)) || die "the cuts lost nothing"
((on_the_way >= 3)) || die "the rebuild was through after $on_the_way cuts"
((filled > 0)) || die "nothing was ever written down"

step "the rebuild ends; everything is there whichever member is lost"
expect 0 "$EK" wait c rebuild --timeout 120
[ "$(status c .state)" = healthy ] || die "$(status c .)"
[ "$(status c '.members[1].path')" = "$d/disk4" ] || die "the new one is not member 1"
same c "$work/want"
stop c
off
for gone in 0 2 3 4; do
	rest=()
	for i in 0 2 3 4; do
		if [ $i != $gone ]; then
			cp --sparse=always "$images/disk$i" "$work/copy$i"
			rest+=("$work/copy$i")
		fi
	done
	start c "${rest[@]}"
	same c "$work/want"
	stop c
	rm "$work"/copy*
done
step "all identical after $cuts cuts, which lost $lost writes"
