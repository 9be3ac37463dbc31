#!/bin/bash
# Events, natively: the program of --hook, or of the PROGRAM line in the configuration, is run on each,
# with what mdadm's monitor would give it; it has nothing of the daemon's; one that hangs is killed and
# keeps nobody waiting; and a scrub begins by itself.
# shellcheck source=tests/nbd/array.sh
. "$(dirname "$0")/array.sh"
need jq nbdcopy nbdsh

# What is run writes down what it was given, then what it has: open files, signals, memory, mounts.
hook=$work/hook
cat >"$hook" <<-SCRIPT
	#!/bin/bash
	{
		for fd in /proc/\$\$/fd/*; do readlink "\$fd"; done
		grep -E 'SigBlk|VmLck' /proc/self/status
		echo "oom \$(cat /proc/self/oom_score_adj)"
		readlink /proc/\$\$/ns/mnt
	} >"$work/has" 2>"$work/has.errors"
	echo "\$PPID" >"$work/runner"
	echo "the hook was here"
	echo "\$EVENKEEL_ARRAY: \$*: \$EVENKEEL_SENTENCE" >>"$work/events"
SCRIPT
chmod +x "$hook"

# soon WHAT COMMAND... : waits until the command succeeds; what is looked at is done by others.
soon() {
	local what=$1 i
	shift
	for ((i = 0; i < 600; i++)); do
		if "$@"; then return; fi
		sleep 0.05
	done
	cat "$work/events" >&2
	die "$what"
}
seen() { grep -q -- "$1" "$work/events" 2>/dev/null; }
# event NAME KIND [MEMBER] : the hook was run for it, with just that.
event() { soon "no event $2 ${3-}" seen "^$1: $2 $work/run/$1.nbd${3:+ $3}: "; }
# kinds : all kinds so far, in order.
kinds() { awk '{ print $2 }' "$work/events" | paste -sd ' '; }
gone() { [ ! -e "/proc/$1" ]; }

# --- what is refused -----------------------------------------------------------------------------

step "a program that cannot be run is refused before the start"
make ev raid6 4 2 32M --log-size 1M
expect 2 "$EK" start --via nbd --hook "$work/none" "$work"/disks/ev.*
grep -q "$work/none, cannot be used: No such file" "$work/err" || die "$(cat "$work/err")"
echo '#!/bin/sh' >"$work/plain"
expect 2 "$EK" start --via nbd --hook "$work/plain" "$work"/disks/ev.*
grep -q "$work/plain, may not be executed" "$work/err" || die "$(cat "$work/err")"
export EVENKEEL_CONF=$work/conf
echo "PROGRAM hook" >"$EVENKEEL_CONF"
expect 2 "$EK" start --via nbd "$work"/disks/ev.*
grep -q "no path from the root" "$work/err" || die "$(cat "$work/err")"
expect 2 "$EK" start --via nbd --scrub-every -1 "$work"/disks/ev.*
expect 4 "$EK" status ev --test

# --- the events of a life ------------------------------------------------------------------------

step "a start by name with the program of the configuration: NewArray"
printf '# All disks, and the hook.\n%s\nPROGRAM %s\n' "$(disks ev 6)" "$hook" >"$EVENKEEL_CONF"
start ev
event ev NewArray

step "a block goes wrong: Mismatch and Healed, with the member"
head -c 4M /dev/urandom >"$work/data"
nbdcopy --flush "$work/data" "$(uri ev)"
"$EK" wait ev destage --timeout 60
place=$("$EK" locate ev --byte 65536 --json)
path=$(jq -r .data.path <<<"$place")
dd if=/dev/urandom of="$path" bs=4096 seek=$(($(jq .data.byte <<<"$place") / 4096)) count=1 conv=notrunc,fsync status=none
same ev "$work/data"
event ev Mismatch "$path"
event ev Healed "$path"

step "a scrub: ScrubStarted, ScrubFinished"
"$EK" scrub ev
"$EK" wait ev scrub --timeout 60
event ev ScrubFinished

step "a member fails, by order and by itself: Fail, with the member"
"$EK" fail ev "$work/disks/ev.4"
event ev Fail "$work/disks/ev.4"
truncate -s 1M "$work/disks/ev.0"
odd_writes ev "$work/data" 1 20 200000
"$EK" wait ev destage --timeout 60
event ev Fail "$work/disks/ev.0"
same ev "$work/data"

step "the stop: DeviceDisappeared; the next start: DegradedArray"
stop ev
event ev DeviceDisappeared
# A descriptor of the caller's, which is not the hook's either.
start ev 7<"$work/data"
event ev DegradedArray
grep -q "DegradedArray.*ev\.4 is failed" "$work/events" || grep -q "DegradedArray.*member 4 is failed" "$work/events" ||
	die "who is out is not said: $(grep Degraded "$work/events")"
stop ev
soon "the second stop is not told" eval '[ "$(grep -c DeviceDisappeared "$work/events")" = 2 ]'
told="NewArray Mismatch Healed ScrubStarted ScrubFinished Fail Fail DeviceDisappeared"
told="$told NewArray DegradedArray DeviceDisappeared"
[ "$(kinds)" = "$told" ] || die "in order: $(kinds)"
grep -q "^evenkeel: Array ev: a scrub begins" "$work/run/ev.log" || die "the log says no sentences any more"
grep -q "^the hook was here" "$work/run/ev.log" || die "what the hook prints is not in the log"
! grep Warning: "$work/run/ev.log" | grep "$hook" || die "the hook was complained of"

# --- what the hook has ---------------------------------------------------------------------------

step "the hook has nothing of the daemon's: descriptors, locked memory, signals, mounts"
[ ! -s "$work/has.errors" ] || die "$(cat "$work/has.errors")"
while read -r has; do
	case $has in
	/dev/null | "$work/has" | "$work/has.errors" | "$work/run/ev.log" | "$hook") ;;
	SigBlk*0000000000000000 | VmLck*" 0 kB" | "oom $(cat /proc/self/oom_score_adj)") ;;
	"$(readlink /proc/self/ns/mnt)") ;;
	*) die "the hook has $has" ;;
	esac
done <"$work/has"
[ "$(wc -l <"$work/has")" -ge 8 ] || die "not all was looked at: $(cat "$work/has")"
soon "the runner goes on after the daemon" gone "$(cat "$work/runner")"

# --- one that hangs ------------------------------------------------------------------------------

step "a hook that hangs: the array goes on, and it is killed"
cat >"$work/hang" <<-SCRIPT
	#!/bin/sh
	echo \$\$ \$PPID >>"$work/hanging"
	exec sleep 600
SCRIPT
chmod +x "$work/hang"
make h raid5 2 1 32M --log-size 1M
start h --hook "$work/hang" --hook-timeout 3 "$work"/disks/h.*
soon "it does not hang" test -s "$work/hanging"
head -c 4M /dev/urandom >"$work/data"
nbdcopy --flush "$work/data" "$(uri h)"
odd_writes h "$work/data" 2 50 200000
same h "$work/data"
"$EK" fail h "$work/disks/h.1"
expect 1 "$EK" status h --test
soon "it is not killed" grep -q "hang, run for the event NewArray, had not ended after 3 s" "$work/run/h.log"
soon "the next is not run" eval '[ "$(wc -l <"$work/hanging")" = 2 ]'
read -r first runner < <(head -n 1 "$work/hanging")
gone "$first" || die "the first one was not waited for"
children=$(grep -l "^PPid:	$(pid_of h)\$" /proc/[0-9]*/status 2>/dev/null || true)
[ -z "$children" ] || die "the daemon has children: $children"

step "kill -9 of the daemon while a hook hangs: no lock is left with it"
kill9 h
soon "the runner goes on after the daemon" gone "$runner"
: >"$work/hanging"
start h --hook "$work/hang" --hook-timeout 600 "$work"/disks/h.*
soon "it does not hang" test -s "$work/hanging"
read -r hangs runner <"$work/hanging"
kill9 h
start h --io-timeout 5 "$work"/disks/h.*
if gone "$hangs" || gone "$runner"; then die "the hook did not outlive the daemon: nothing was shown"; fi
same h "$work/data"
stop h
kill "$runner" "$hangs"

step "a stop does not wait for a hook that hangs"
: >"$work/hanging"
start h --hook "$work/hang" --hook-timeout 3 "$work"/disks/h.*
soon "it does not hang" test -s "$work/hanging"
read -r _ runner <"$work/hanging"
gone "$runner" && die "there is no runner"
stop h
gone "$runner" && die "the stop waited for the hook"
start h "$work"/disks/h.*
stop h
soon "the runner goes on" gone "$runner"
grep -q "the daemon has ended, and $work/hang was not run for its last events" "$work/run/h.log" ||
	die "what was not told is not said"

# --- scrubs by themselves ------------------------------------------------------------------------

step "a scrub begins by itself when it is due, and is told; by default it is not due"
: >"$work/events"
make s raid5 2 1 32M --log-size 1M
# Since the last one, which is none: since the creation, in whole seconds.
start s --scrub-every 0.00003 "$work"/disks/s.*
event s ScrubFinished
grep -q "ScrubStarted .*by itself, since there was none for 0.00003 days" "$work/events" || die "$(cat "$work/events")"
stop s
soon "the stop is not told" seen DeviceDisappeared
for every in 30 0; do
	: >"$work/events"
	start s --scrub-every "$every" "$work"/disks/s.*
	event s NewArray
	[ "$(status s .scrub.running)" = false ] || die "a scrub is under way"
	stop s
	soon "the stop is not told" seen DeviceDisappeared
	[ "$(kinds)" = "NewArray DeviceDisappeared" ] || die "$(kinds)"
done
step "done"
