# What the scripts here share: telling the story, checking, and tidying up. Sourced, by bash; what it
# finds in the environment is described in tests/vm/boot.
#
#   step TITLE          a new numbered step, timed for the summary
#   say TEXT            a line of explanation
#   run COMMAND...      shows the command and runs it; the script fails if it fails
#   ok TEXT             a check that held
#   fail TEXT           a check that did not: prints what the daemon and the kernel said, and ends
#   expect WHAT A OP B  a check of two values by OP as [ ] knows it
#   until_true SECONDS COMMAND...   waits for COMMAND to succeed
#   summary TEXT        the steps with their times, and TEXT
#
#   mount_it, umount_it  the array's device at $mnt
#
#   pull DISK            pulls a disk (boot's --unplug), by its path, and waits until its node is gone
#   put_back SERIAL      puts it back; again= is where it is now
#
# and for the array: start_array, stop_array, status_of, daemon_pid, in which array= is its name.
# shellcheck shell=bash

set -u
shopt -s nullglob
export LC_ALL=C.UTF-8
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

evenkeel=${EVENKEEL:-evenkeel}
work=${EVENKEEL_WORK:?the scratch directory; run this by tests/vm/boot}
run_dir=${EVENKEEL_RUN_DIR:-/run/evenkeel}
array=${array:-vault}
device='' mounts=() jobs_running=()
step_number=0 step_titles=() step_starts=() checks=0

now() {
	local up
	read -r up _ </proc/uptime
	echo "$up"
}
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.1f", b - a }'; }
story_began=$(now)

step() {
	step_number=$((step_number + 1))
	step_titles+=("$1")
	step_starts+=("$(now)")
	printf '\n%2d. %s\n' "$step_number" "$1"
}
say() { printf '    %s\n' "$*"; }
ok() {
	checks=$((checks + 1))
	printf '    ok: %s\n' "$*"
}
mount_it() {
	run mount "$device" "$mnt"
	mounts+=("$mnt")
}
umount_it() {
	run umount "$mnt"
	unset 'mounts[-1]'
}
indent() { sed 's/^/      /'; }

# quoted COMMAND...: as one would type it.
quoted() {
	local word text=''
	for word in "$@"; do
		[ "$word" = "$evenkeel" ] && word=evenkeel
		case $word in
		*[!A-Za-z0-9_./:=,@%+-]* | '') word=$(printf %q "$word") ;;
		esac
		text+=" $word"
	done
	echo "${text# }"
}
run() {
	printf '    $ %s\n' "$(quoted "$@")"
	local rc=0
	timeout "${run_limit:-180}" "$@" >"$work/run.out" 2>&1 </dev/null || rc=$?
	indent <"$work/run.out"
	if [ $rc = 124 ]; then fail "no end after ${run_limit:-180} s: $(quoted "$@")"; fi
	if [ $rc != 0 ]; then fail "exit status $rc: $(quoted "$@")"; fi
}

fail() {
	printf '\nFAILED in step %d (%s): %s\n' "$step_number" "${step_titles[*]: -1}" "$*"
	local file
	if [ -x "$evenkeel" ]; then
		printf '\n--- evenkeel status --json\n'
		timeout 20 "$evenkeel" status "$array" --json 2>&1 </dev/null | head -c 4000
	fi
	for file in "$run_dir"/*.log; do
		printf '\n--- the end of %s\n' "$file"
		tail -n 60 "$file"
	done
	for file in "$work"/fio-*.log; do
		printf '\n--- the end of %s\n' "$file"
		tail -n 15 "$file"
	done
	printf '\n--- the end of the kernel log\n'
	dmesg 2>/dev/null | tail -n 30
	exit 1
}
expect() { # expect WHAT A OP B
	if test "$2" "$3" "$4"; then ok "$1: $2"; else fail "$1: $2, but expected: $3 $4"; fi
}
until_true() { # until_true SECONDS COMMAND...
	local end=$((SECONDS + $1))
	shift
	until "$@"; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.2
	done
}
summary() {
	local i next
	step_starts+=("$(now)")
	printf '\n%s\n' '---------------------------------------------------------------------------'
	for ((i = 0; i < step_number; i++)); do
		next=$(awk -v a="${step_starts[i]}" -v b="${step_starts[i + 1]}" 'BEGIN { printf "%.1f", b - a }')
		printf '%2d. %-62s %6s s\n' $((i + 1)) "${step_titles[i]}" "$next"
	done
	printf '%s\n' '---------------------------------------------------------------------------'
	printf '%s\n%d checks held, in %s s.\n' "$1" "$checks" "$(since "$story_began")"
}

# --- disks that are pulled and put back ------------------------------------------------------------

# by_serial SERIAL: where a disk is now, by its serial number.
by_serial() {
	local d
	for d in /sys/block/vd*; do
		if [ "$(cat "$d/serial")" = "$1" ]; then echo "/dev/${d##*/}"; fi
	done
}
pull() {
	local name=${1##*/}
	mkdir -p "$EVENKEEL_OUT/.unplug"
	: >"$EVENKEEL_OUT/.unplug/$(cat "/sys/block/$name/serial")"
	until_true 30 test ! -e "/sys/block/$name" || fail "$1 was not pulled"
}
put_back() {
	mkdir -p "$EVENKEEL_OUT/.plug"
	: >"$EVENKEEL_OUT/.plug/$1"
	is_back() { again=$(by_serial "$1") && [ -b "$again" ]; }
	until_true 60 is_back "$1" || fail "$1 did not come back"
}

# --- the array -----------------------------------------------------------------------------------

status_of() { # status_of JQ-FILTER
	timeout 30 "$evenkeel" status "$array" --json 2>>"$work/status.err" </dev/null | jq -r "$1"
}
daemon_pid() { cat "$run_dir/$array.pid"; }
is_state() { [ "$(status_of .state)" = "$1" ]; }

# start_array DISK...: starts it over ublk; sets device= and waits for its node.
start_array() {
	local rc=0 began
	began=$(now)
	printf '    $ %s\n' "$(quoted evenkeel start "$@")"
	# Into files, not a pipe: the daemon goes on after this.
	timeout 120 "$evenkeel" start "$@" >"$work/start.out" 2>"$work/start.err" </dev/null || rc=$?
	indent <"$work/start.err"
	indent <"$work/start.out"
	[ $rc = 0 ] || fail "evenkeel start ended with status $rc"
	device=$(grep -o '/dev/ublkb[0-9]*' "$work/start.out" | tail -n 1)
	[ -n "$device" ] || fail "evenkeel start printed no device"
	until_true 10 test -b "$device" || fail "$device is not a block device"
	say "It serves after $(since "$began") s."
}
stop_array() {
	run "$evenkeel" stop "$array"
	device=
}

# --- tidying up: at the end, and after a failure on a machine that goes on -----------------------

# shellcheck disable=SC2317 # called by the trap
tidy() {
	local rc=$? i pid
	for pid in "${jobs_running[@]}"; do kill "$pid" 2>/dev/null; done
	for ((i = ${#mounts[@]} - 1; i >= 0; i--)); do umount "${mounts[i]}" 2>/dev/null || umount -l "${mounts[i]}" 2>/dev/null; done
	if [ $rc != 0 ] && [ "${EVENKEEL_VENUE:-}" = native ] && [ -e "$run_dir/$array.pid" ]; then
		timeout 30 "$evenkeel" stop "$array" --force >/dev/null 2>&1 </dev/null || kill -9 "$(daemon_pid)" 2>/dev/null
	fi
	exit $rc
}
trap tidy EXIT
trap 'exit 143' TERM INT HUP
