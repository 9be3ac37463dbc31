#!/bin/bash
# Spares, add, remove, replace and re-add over NBD, under load and through kill -9: what is copied, what
# is refused, and that everything is there whichever member is lost afterwards.
# shellcheck source=tests/nbd/array.sh
. "$(dirname "$0")/array.sh"
PATH=$PATH:/usr/sbin:/sbin
need nbdcopy nbdsh jq awk mkfs.ext4

d=$work/disks
head -c $((48 << 20)) /dev/urandom >"$work/want"
# copied NAME FROM : bytes that the daemon's log says a rebuild had to copy, of what is behind line FROM.
copied() { tail -n +"$(($2 + 1))" "$work/run/$1.log" | sed -n 's/.*the rebuild of .* begins: \([0-9]*\) bytes.*/\1/p' | tail -n 1; }
lines() { wc -l <"$work/run/$1.log"; }

step "create with a spare; what is refused"
truncate -s 64M "$d/small"
expect 15 make m raid5 3 1 96M --spare "$d/small"
grep -q "$d/small has 67108864 bytes" "$work/err" || die "what is too small is not said"
[ "$(ls "$d")" = small ] || die "a refused create left files"
expect 0 make m raid5 3 1 96M --spare "$d/spare"
grep -q "$d/spare takes the place" "$work/out" || die "the spare is not named"
expect 16 make x raid5 3 1 96M --spare "$d/spare"
rm -f "$d"/x.*
expect 0 "$EK" examine --json "$d/spare"
jq -e '.[0] | .member.role == "spare" and .member.index == 4 and .members[4].state == "spare"' \
	"$work/out" >/dev/null || die "examine of a spare"
start m
nbdcopy "$work/want" "$(uri m)"
[ "$(status m '[.members[].state] | join(" ")')" = "active active active active spare" ] || die "states"

step "a member fails under load: the spare takes over by itself"
load m 100
expect 0 "$EK" fail m "$d/m.1"
rebuilt m
enough
[ "$(status m .state)" = healthy ] || die "not healthy"
[ "$(status m '.members[1].path')" = "$d/spare" ] || die "the spare is not member 1"
if grep -q "m.1" "$work/run/m.disks"; then die "the failed one is still remembered"; fi
same m "$work/want"
every_loss m

step "replace under load, and by a spare; add and remove"
truncate -s 96M "$d/n1" "$d/n2"
load m 200
expect 0 "$EK" replace m "$d/m.0" "$d/n1"
expect 1 "$EK" replace m "$d/m.0" "$d/n2"
rebuilt m
enough
[ "$(status m '.members[0].path')" = "$d/n1" ] || die "the new one is not member 0"
if grep -qx "$d/m.0" "$work/run/m.disks"; then die "the replaced one is still remembered"; fi
expect 0 "$EK" add m "$d/n2"
grep -qx "$d/n2" "$work/run/m.disks" || die "what was added is not remembered"
[ "$(status m '.members[] | select(.path == "'"$d/n2"'") | .state')" = spare ] || die "it is no spare"
expect 0 "$EK" replace m "$d/m.2" "$d/n2"
rebuilt m
[ "$(status m '.members[2].path')" = "$d/n2" ] || die "the spare is not member 2"
expect 0 "$EK" add m "$d/m.2"
expect 0 "$EK" remove m "$d/m.2"
if grep -qx "$d/m.2" "$work/run/m.disks"; then die "what was removed is still remembered"; fi
expect 1 "$EK" remove m "$d/n2"
grep -q "is in use" "$work/err" || die "that it is in use is not said"
[ "$(status m '.members | length')" = 4 ] || die "the spare's entry is still there"
same m "$work/want"
every_loss m

step "refusals: too small, in use, a file system, another array, twice"
before=$(sha256sum "$d/small")
expect 15 "$EK" add m "$d/small"
[ "$before" = "$(sha256sum "$d/small")" ] || die "what was too small was written to"
truncate -s 96M "$d/fs" "$d/free"
mkfs.ext4 -q -L precious "$d/fs"
before=$(sha256sum "$d/fs")
expect 16 "$EK" add m "$d/fs"
grep -q 'ext4 "precious"' "$work/err" || die "the file system is not named"
expect 16 "$EK" replace m "$d/n1" "$d/fs"
[ "$before" = "$(sha256sum "$d/fs")" ] || die "the file system was written to"
expect 0 make o raid1 1 1 96M
expect 16 "$EK" add m "$d/o.0"
start o
expect 13 "$EK" add m "$d/o.0"
stop o
exec 9<"$d/free"
flock -n 9
expect 13 "$EK" add m "$d/free"
exec 9<&-
expect 12 "$EK" add m "$d/n1"
expect 0 "$EK" add m "$d/free"
expect 12 "$EK" add m "$d/free"
expect 2 "$EK" remove m "$d/fs"
expect 2 "$EK" replace m "$d/fs" "$d/free"
expect 1 "$EK" add m "$d/none"
expect 1 "$EK" add nobody "$d/fs"
expect 0 "$EK" remove m "$d/free"
[ "$(status m .state)" = healthy ] || die "not healthy"

step "a failed member comes back: only what changed is copied"
expect 0 "$EK" wait m destage
expect 0 "$EK" fail m "$d/m.3"
# One MiB of whole stripes while it is away.
head -c $((1 << 20)) /dev/urandom >"$work/piece"
dd if="$work/piece" of="$work/want" bs=1M seek=6 conv=notrunc status=none
nbdsh -u "$(uri m)" -c "h.pwrite(open('$work/piece', 'rb').read(), 6 << 20)" -c "h.flush()"
at=$(lines m)
expect 0 "$EK" add m "$d/m.3"
grep -q "member 3 of \"m\" again" "$work/out" || die "it is not recognised: $(cat "$work/out")"
rebuilt m
bytes=$(copied m "$at")
# A MiB is 5 to 7 stripes; what was dirty when it failed adds a few.
awk -v b="$bytes" 'BEGIN {exit !(b >= 5 * 65536 && b <= 24 * 65536)}' || die "$bytes bytes were copied"
step "$bytes bytes copied of $(status m '.stripes.mapped * .chunk_bytes')"
same m "$work/want"
every_loss m

step "kill -9 in the middle of a rebuild, three times: it goes on where it was"
stop m
start m --rebuild-rate 2M
expect 0 "$EK" fail m "$d/n1"
truncate -s 96M "$d/slow"
expect 0 "$EK" add m "$d/slow"
before=0
for round in 1 2 3; do
	filled=$before
	for ((i = 0; i < 300 && filled <= before; i++)); do
		sleep 0.1
		filled=$("$EK" examine --json "$d/slow" | jq '[.[0].members[] | .filled_stripes // 0] | max')
	done
	((filled > before)) || die "round $round: nothing is written down after $filled stripes"
	[ "$(status m .state)" = rebuilding ] || die "round $round: $(status m .state)"
	kill9 m
	at=$(lines m)
	start m --rebuild-rate 2M
	grep -q "that had not ended goes on" <(tail -n +"$((at + 1))" "$work/run/m.log") || die "round $round: it began anew"
	before=$filled
	step "round $round: $filled stripes were written down"
	odd_writes m "$work/want" "1$round" 20 100000
done
kill9 m
start m
rebuilt m
[ "$(status m '.members[0].path')" = "$d/slow" ] || die "the new one is not member 0"
same m "$work/want"
every_loss m

step "raid6: two out at once, two spares, then any two missing"
expect 0 make s raid6 3 2 96M --spare "$d/s.x" --spare "$d/s.y"
start s
nbdcopy "$work/want" "$(uri s)"
expect 0 "$EK" fail s "$d/s.0"
expect 0 "$EK" fail s "$d/s.3"
rebuilt s
[ "$(status s '[.state, (.can_lose | tostring), .members[0].path, .members[3].path] | join(" ")')" = \
	"healthy 2 $d/s.x $d/s.y" ] || die "$(status s .)"
expect 0 "$EK" fail s "$d/s.x"
expect 0 "$EK" fail s "$d/s.y"
same s "$work/want"
stop s
stop m
step "all identical"
