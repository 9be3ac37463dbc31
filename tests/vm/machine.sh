# A machine whose power can be cut, for the scripts here: its disks are served by one process (power serve,
# of tests/src/bin/power.rs), which keeps what is written volatile until a flush; the machine is
# tests/vm/boot. Sourced, by bash, after these are set: here=, root=, keep= (a directory).
#
#   fresh N SIZE          N disks of zeros
#   serve SEED OPTION...  the disks, until stop_server; what a cut keeps follows from the seed
#   boot SCRIPT OPTION... the machine with them, in the background, with these options of tests/vm/boot; what it says goes to
#                         $keep/boots/NUMBER.log and, of the last boot, to $work/boot.log
#   cut_power MS HOW      waits so many milliseconds, then has the power cut as power serve is told by HOW,
#                         or without that after 15 s more; fails if the machine had ended by itself
#   number NAME FILE      a number of the line that a cut left in FILE
#
# It makes work= (gone at the end), images= and out= (which SCRIPT sees, and no cut reaches), and ends all
# processes at the end. SCRIPT makes $out/working when the cut may come, and writes $out/verdict.
# shellcheck shell=bash

skipped() {
	echo "skipped: $*"
	exit 77
}
power=${CARGO_TARGET_DIR:-$root/target}/release/power
[ -x "$power" ] || skipped "the release build of power is not there (cargo build --release -p evenkeel-tests --bin power)"
# Scratch space on a disk: there are hundreds of MB.
work=$(mktemp -d "${TMPDIR:-/tmp}/evenkeel-power.XXXXXX") || exit 2
images=$work/images out=$work/out
mkdir "$images" "$out"
rm -rf "$keep/boots"
mkdir -p "$keep/boots" && keep=$(readlink -f "$keep") || exit 2

server='' machine='' boots=0
kill_machine() {
	local pid
	pid=$(cat "$work/qemu.pid" 2>/dev/null) && [ -n "$pid" ] && kill -9 "$pid" 2>/dev/null
	[ -n "$machine" ] && wait "$machine" 2>/dev/null
	rm -f "$work/qemu.pid"
	machine=
}
stop_server() {
	[ -n "$server" ] || return 0
	exec 8>&-
	wait "$server"
	server=
}
# shellcheck disable=SC2317 # called by the trap
finish() {
	[ -n "$machine" ] && kill "$machine" 2>/dev/null
	kill_machine
	[ -n "$server" ] && kill "$server" 2>/dev/null
	rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# until_true SECONDS COMMAND...
until_true() {
	local end=$((SECONDS + $1))
	shift
	until "$@"; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.05
	done
}
die() {
	echo "${0##*/}: $*" >&2
	exit 1
}

# serve SEED OPTION...: the disks, until stop_server.
serve() {
	rm -f "$work/commands" "$work/server.log"
	mkfifo "$work/commands" || exit 2
	"$power" serve --socket "$work/socket" --seed "$@" "$images"/disk* <"$work/commands" >"$work/server.log" 2>&1 &
	server=$!
	exec 8>"$work/commands"
	until_true 20 grep -q ready "$work/server.log" || die "the disks are not served: $(cat "$work/server.log")"
}
# boot SCRIPT OPTION...: the machine, in the background.
boot() {
	local disks=("$images"/disk*)
	rm -f "$out/working" "$out/verdict" "$work/qemu.pid"
	boots=$((boots + 1))
	ln -sf "$keep/boots/$boots.log" "$work/boot.log"
	"$here/boot" --venue vm --disks ${#disks[@]} --disk-socket "$work/socket" --out "$out" --with "$power" --limit 400 \
		"${@:2}" --qemu -pidfile --qemu "$work/qemu.pid" "$here/scripts/$1" >"$work/boot.log" 2>&1 &
	machine=$!
}
machine_ended() { ! kill -0 "$machine" 2>/dev/null; }
working_or_ended() { [ -e "$out/working" ] || machine_ended; }
cut_happened() { grep -q '^cut: ' "$work/server.log"; }
# cut_power MS HOW: the power goes.
cut_power() {
	sleep "$(printf '%d.%03d' $(($1 / 1000)) $(($1 % 1000)))"
	echo "$2" >&8
	until_true 15 cut_happened || echo cut >&8
	until_true 60 cut_happened || die "no cut: $(cat "$work/server.log")"
	if machine_ended; then return 1; fi
	kill_machine
	stop_server
}

number() { sed -n "s/^cut: .*\b$1=\([0-9]*\).*/\1/p" "$2"; }
fresh() {
	local i
	rm -f "$images"/*
	for ((i = 0; i < $1; i++)); do truncate -s "$2" "$images/disk$i" || exit 2; done
}
