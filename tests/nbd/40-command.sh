#!/bin/bash
# The command: exit codes, refusals that change nothing, and what it prints for programs.
# shellcheck source=tests/nbd/array.sh
. "$(dirname "$0")/array.sh"
PATH=$PATH:/usr/sbin:/sbin
need jq mkfs.ext4
cd "$work/disks"

step "usage and what is not there yet"
expect 2 "$EK" create x --level raid5
expect 2 "$EK" create .x --level raid5 --file-size 64M a b c
expect 2 "$EK" create x --level raid9 --file-size 64M a b c
expect 2 "$EK" create x --level rs --file-size 64M a b c
expect 2 "$EK" create x --level raid5 --data 3 --file-size 64M a b c
expect 2 "$EK" create x --level raid5 --chunk 63K --file-size 64M a b c
expect 2 "$EK" create x --level raid5 --file-size 64Q a b c
expect 2 "$EK" create x --level raid1 --file-size 64M a
expect 2 "$EK" create x --level raid1 --data 2 --file-size 64M a b c
expect 2 "$EK" create x --level evenodd --file-size 64M a b
expect 2 "$EK" create x --level evenodd --parity 3 --file-size 64M a b c d
expect 0 "$EK" create x --level raid1 --dry-run --file-size 64M a b
expect 0 "$EK" create x --level evenodd --dry-run --file-size 64M a b c d
expect 0 "$EK" create x --level raid5 --dry-run --file-size 64M --spare d a b c
grep -q "d takes the place" "$work/out" || die "the spare is not named"
expect 12 "$EK" create x --level raid5 --file-size 64M --spare a a b c
expect 1 "$EK" create x --level raid5 a b c
expect 12 "$EK" create x --level raid5 --file-size 64M a a c
expect 12 "$EK" create x --level raid5 --file-size 64M a ./a c
expect 12 "$EK" create x --level raid5 --dry-run --file-size 64M a ./a c
expect 15 "$EK" create x --level raid5 --file-size 64K a b c
expect 0 "$EK" create x --level raid5 --dry-run --file-size 64M a b c
[ -z "$(ls)" ] || die "a refused or dry create left files: $(ls)"

step "create refuses what carries something else"
truncate -s 64M a b c
mkfs.ext4 -q -L precious b
sum=$(sha256sum b)
expect 16 "$EK" create x --level raid5 a b c
grep -q 'ext4 "precious"' "$work/err" || die "the file system is not named"
[ "$sum" = "$(sha256sum b)" ] || die "something was written"
expect 0 "$EK" create x --level raid5 --force a b c
expect 16 "$EK" create y --level raid5 a b c

step "start, status, stop"
expect 4 "$EK" status x --test
expect 1 "$EK" stop x
expect 10 "$EK" start nosuch --via nbd
expect 12 "$EK" start "$EK" --via nbd
expect 12 "$EK" start a b a --via nbd
expect 1 "$EK" start a b nosuch --via nbd
expect 2 "$EK" start a b c --via ublk --socket "$work/s"
expect 0 "$EK" start x --via nbd --socket "$work/s"
[ "$(cat "$work/out")" = "$work/s" ] || die "start printed $(cat "$work/out")"
expect 13 "$EK" start x --via nbd
expect 13 env EVENKEEL_RUN_DIR="$work/other" "$EK" start a b c --via nbd
expect 13 "$EK" create y --level raid5 --force a b c
expect 0 "$EK" status x --test
keys=$("$EK" status x --json | jq -c keys)
[ "$keys" = '["ack","cache","can_lose","chunk_bytes","data","device","epoch","grow","level","log","members","name","parity","read_only","rebuild","replay","scrub","size_bytes","state","stripes","uuid","via"]' ] ||
	die "keys of the status: $keys"
[ "$("$EK" status --json | jq -r '.[].name')" = x ] || die "status of all"
expect 0 "$EK" wait x destage --timeout 10
expect 0 "$EK" wait x scrub
expect 1 "$EK" scrub x --stop
grep -q 'No scrub' "$work/err" || die "scrub --stop does not say that there is none"
expect 2 "$EK" scrub x --stop --check-only
expect 0 "$EK" scrub x
expect 0 "$EK" wait x scrub --timeout 60
[ "$(status x '.scrub | [.running, .mismatches, .healed] | map(tostring) | join(" ")')" = "false 0 0" ] ||
	die "scrub: $(status x .scrub)"
"$EK" status x | grep -q '^scrub: ended' || die "the table does not show the scrub"
expect 2 "$EK" fail x nosuch
expect 0 "$EK" fail x a
expect 1 "$EK" fail x b
expect 1 "$EK" status x --test
expect 0 "$EK" stop x
expect 4 "$EK" status x --test
[ ! -e "$work/s" ] && [ ! -e "$work/run/x.sock" ] && [ ! -e "$work/run/x.pid" ] ||
	die "left over: $(ls "$work/run")"

step "too few, and members that were failed"
expect 11 "$EK" start a b --via nbd
expect 10 "$EK" start b --via nbd
expect 0 "$EK" start b c --via nbd
expect 0 "$EK" stop x

step "examine and log"
"$EK" examine --json a b c >"$work/examine"
jq -e '.[1] | .name == "x" and .level == "raid5" and .clean and (.areas | map(.area) | index("log"))' \
	"$work/examine" >/dev/null || die "examine"
jq -e '[.[1].areas[] | [.offset, .offset + .bytes]] | . == sort and
	([.[:-1], .[1:]] | transpose | all(.[0][1] <= .[1][0]))' "$work/examine" >/dev/null ||
	die "areas overlap"
expect 12 "$EK" examine "$EK"
"$EK" log --json b c | jq -e '(.commits | length > 0) and .end.reason == "nothing newer"' >/dev/null ||
	die "log"
expect 12 "$EK" log "$EK"
expect 0 "$EK" log b c
step "done"
