# shellcheck shell=bash
# Arrays of files, for the tests in this folder: source it, it makes a folder of its own under
# $EVENKEEL_TEST_DIR (default $TMPDIR or /tmp) and takes everything down at the end.
#
# $EVENKEEL_BIN is the command to test (default target/release/evenkeel).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
EK=$(realpath "${EVENKEEL_BIN:-$here/../../target/release/evenkeel}")
[ -x "$EK" ] || { echo "no executable at $EK: cargo build --release, or set EVENKEEL_BIN" >&2; exit 2; }
work=$(mktemp -d "${EVENKEEL_TEST_DIR:-${TMPDIR:-/tmp}}/evenkeel-nbd.XXXXXX")
export EVENKEEL_RUN_DIR=$work/run EVENKEEL_CONF=$work/no.conf
mkdir "$work/run" "$work/disks"

step() { printf '%s: %s\n' "$(basename "$0")" "$*"; }
die() { printf '%s: FAILED: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

# need TOOL... : the tools that a test cannot do without.
need() {
	local tool
	for tool; do
		command -v "$tool" >/dev/null || die "$tool is missing: tools/install-deps installs it"
	done
}

# Debian's python3 has libnbd's module; another one that stands before it on the path has not.
nbdsh() { PATH=/usr/bin:$PATH command nbdsh "$@"; }

uri() { printf 'nbd+unix:///?socket=%s' "$work/run/$1.nbd"; }
pid_of() { cat "$work/run/$1.pid"; }

# disks NAME N : the paths of the disks of an array, one a line.
disks() { local i; for ((i = 0; i < $2; i++)); do echo "$work/disks/$1.$i"; done; }

# make NAME LEVEL K M SIZE [OPTION...]
make() {
	local name=$1 level=$2 k=$3 m=$4 size=$5
	shift 5
	# shellcheck disable=SC2046 # paths without spaces
	"$EK" create "$name" --level "$level" --data "$k" --parity "$m" --file-size "$size" "$@" \
		$(disks "$name" $((k + m)))
}

# start NAME [OPTION...] [DISK...] : over NBD; by name where no disk is given.
start() {
	local name=$1 arg by_name=1
	shift
	for arg; do case $arg in /*) by_name=0 ;; esac; done
	if ((by_name)); then set -- "$name" "$@"; fi
	"$EK" start --via nbd "$@" >"$work/device" || die "start of $name ended with $?"
	[ "$(cat "$work/device")" = "$work/run/$name.nbd" ] || die "start printed $(cat "$work/device")"
}

stop() { "$EK" stop "$@" || die "stop ended with $?"; }

# kill9 NAME : the daemon dies without a word.
kill9() {
	local pid
	pid=$(pid_of "$1")
	kill -9 "$pid"
	while kill -0 "$pid" 2>/dev/null; do sleep 0.01; done
}

# expect CODE COMMAND... : it must end with this exit code.
expect() {
	local want=$1 got=0
	shift
	"$@" >"$work/out" 2>"$work/err" || got=$?
	[ "$got" = "$want" ] || { cat "$work/out" "$work/err" >&2; die "exit code $got, not $want: $*"; }
}

# same NAME FILE : the array begins with what is in FILE.
same() {
	nbdcopy "$(uri "$1")" "$work/read"
	cmp -n "$(stat -c %s "$2")" "$work/read" "$2" || die "$1 does not hold what was written"
	rm -f "$work/read"
}

# odd_writes NAME FILE SEED COUNT LONGEST : writes of odd places and sizes, one after the other, none
# of them flushed; FILE, which says how far they reach, gets the same.
odd_writes() {
	nbdsh -u "$(uri "$1")" -c - <<-PYTHON
		import os, random
		r = random.Random($3)
		size = os.path.getsize("$2")
		with open("$2", "r+b") as f:
		    for i in range($4):
		        n = r.choice([1, 511, 4096, r.randrange(1, $5)])
		        at = r.randrange(0, size - n)
		        data = r.randbytes(n)
		        h.pwrite(data, at)
		        f.seek(at)
		        f.write(data)
	PYTHON
}

# patch AT HEX DISK... : overwrites bytes of all whole superblock copies, and mends their CRCs.
patch() {
	python3 - "$@" <<-'PYTHON'
		import os, struct, sys
		at, new, disks = int(sys.argv[1]), bytes.fromhex(sys.argv[2]), sys.argv[3:]
		table = []
		for i in range(256):
		    for _ in range(8):
		        i = i >> 1 ^ (0x82f63b78 if i & 1 else 0)
		    table.append(i)
		for disk in disks:
		    with open(disk, "r+b") as f:
		        for copy in 4096, 65536, os.path.getsize(disk) // 65536 * 65536 - 16384:
		            f.seek(copy)
		            b = bytearray(f.read(16384))
		            b[at:at + len(new)] = new
		            b[56:60] = bytes(4)
		            crc = 0xffffffff
		            for byte in b:
		                crc = crc >> 8 ^ table[(crc ^ byte) & 255]
		            b[56:60] = struct.pack("<I", crc ^ 0xffffffff)
		            f.seek(copy)
		            f.write(b)
	PYTHON
}

# status NAME FILTER : a value of the status, by jq.
status() { "$EK" status "$1" --json | jq -r "$2"; }

# paths NAME : of all its disks, one a line.
paths() { status "$1" '.members[] | select(.path != "") | .path'; }
rebuilt() { "$EK" wait "$1" rebuild --timeout 120 || die "the rebuild of $1 did not end"; }

# every_loss NAME : start with each member missing in turn, on copies, and compare with $work/want.
every_loss() {
	local name=$1 gone path all
	mapfile -t all < <(paths "$name")
	stop "$name"
	for gone in "${all[@]}"; do
		for path in "${all[@]}"; do cp --sparse=always "$path" "$path.kept"; done
		rm "$gone"
		local rest=()
		for path in "${all[@]}"; do [ "$path" = "$gone" ] || rest+=("$path"); done
		start "$name" "${rest[@]}"
		same "$name" "$work/want"
		stop "$name"
		for path in "${all[@]}"; do mv "$path.kept" "$path"; done
	done
	start "$name" "${all[@]}"
}

# load NAME SEED : odd writes from now until enough. $work/want gets the same.
load() {
	local name=$1 seed=$2
	(
		while [ ! -e "$work/enough" ]; do
			odd_writes "$name" "$work/want" "$seed" 20 60000
			seed=$((seed + 1))
			echo "$seed" >"$work/loads"
		done
	) &
	loader=$!
	until [ -e "$work/loads" ]; do sleep 0.05; done
}
enough() {
	touch "$work/enough"
	wait "$loader" || die "the load ended with $?"
	rm "$work/enough" "$work/loads"
}

take_down() {
	local code=$? pid_file pid
	if [ "$code" != 0 ]; then
		printf '%s: ended with %d\n' "$(basename "$0")" "$code" >&2
		for log in "$work"/run/*.log; do
			if [ -s "$log" ]; then echo "--- $log" >&2; tail -n 20 "$log" >&2; fi
		done
	fi
	for pid_file in "$work"/*/*.pid "$work"/*/*/*.pid; do
		[ -e "$pid_file" ] || continue
		pid=$(cat "$pid_file")
		if [ "$(readlink "/proc/$pid/exe")" = "$EK" ]; then kill -9 "$pid"; fi
	done 2>/dev/null
	rm -rf "$work"
	exit "$code"
}
trap take_down EXIT
