# shellcheck shell=bash
# Disks that are broken on purpose, for the tests in this folder: files behind nbdkit and nbdfuse, and what
# is checked of an array on them. Source it after array.sh.
PATH=$PATH:/usr/sbin:/sbin

# needs_fuse WHAT : ends the test as skipped where there is none.
needs_fuse() {
	if [ "$(id -u)" != 0 ] || [ ! -e /dev/fuse ] || ! type -P nbdkit nbdfuse >/dev/null; then
		echo "skipped: $1 needs root, /dev/fuse, nbdkit and nbdfuse"
		exit 77
	fi
}

# --- broken disks --------------------------------------------------------------------------------

servers=() mounts=() loops=()
let_go() {
	local i
	if ((${#servers[@]})); then kill -9 "${servers[@]}" 2>/dev/null || :; fi
	for ((i = 0; i < ${#loops[@]}; i++)); do losetup -d "${loops[i]}" 2>/dev/null || :; done
	for ((i = ${#mounts[@]} - 1; i >= 0; i--)); do umount -l "${mounts[i]}" 2>/dev/null || :; done
}
trap 'code=$?; set +e; let_go; (exit $code); take_down' EXIT

# fuse_disk NAME NBDKIT-ARGUMENT... : a member that nbdkit serves, at $work/fuse/NAME/disk.
fuse_disk() {
	local at=$work/fuse/$1
	mkdir -p "$at/m"
	truncate -s 64M "$at/image"
	nbdkit -U "$at/socket" -P "$at/nbdkit.pid" "${@:2}" 2>"$at/nbdkit.log"
	nbdfuse -P "$at/nbdfuse.pid" "$at/m/disk" --unix "$at/socket" 2>"$at/nbdfuse.log" &
	disown
	mounts+=("$at/m")
	wait_for test -s "$at/nbdkit.pid"
	wait_for test -s "$at/nbdfuse.pid"
	servers+=("$(cat "$at/nbdkit.pid")" "$(cat "$at/nbdfuse.pid")")
}
disk_of() { echo "$work/fuse/$1/m/disk"; }

# error_disk NAME : gives EIO to reads while NAME/bad-read is there, to writes while NAME/bad-write is.
error_disk() {
	local at=$work/fuse/$1
	fuse_disk "$1" --filter=error file "$at/image" error=EIO \
		error-pread-rate=100% error-pread-file="$at/bad-read" \
		error-pwrite-rate=100% error-pwrite-file="$at/bad-write"
}

# flush_disk NAME : gives EIO to flushes while NAME/bad-flush is there; knows neither trim nor zero.
flush_disk() {
	local at=$work/fuse/$1
	fuse_disk "$1" eval get_size="stat -c %s $at/image" \
		pread="dd if=$at/image bs=1M skip=\$4 count=\$3 iflag=skip_bytes,count_bytes status=none" \
		pwrite="dd of=$at/image bs=1M seek=\$4 oflag=seek_bytes iflag=fullblock conv=notrunc status=none" \
		flush="[ ! -e $at/bad-flush ] || { echo EIO the cache is broken >&2; exit 1; }"
}

wait_for() { # wait_for COMMAND... : within half a minute
	local n
	for ((n = 0; n < 300; n++)); do
		if "$@"; then return; fi
		sleep 0.1
	done
	die "this did not come true: $*"
}

# hanging_file NAME : a file that does nothing any more after hang NAME.
hanging_file() {
	fuse_disk "$1" --filter=pause file "$work/fuse/$1/image" pause-control="$work/fuse/$1/control"
}
# hanging_disk NAME : the same, and sets loop= to a device over it.
hanging_disk() {
	hanging_file "$1"
	loop=$(losetup --find --show --direct-io=on "$(disk_of "$1")") || die "there is no loop device"
	loops+=("$loop")
}
# hang NAME, and resume NAME: what was asked meanwhile is done then.
hang() { pause_control "$1" p; }
resume() { pause_control "$1" r; }
pause_control() {
	/usr/bin/python3 - "$work/fuse/$1/control" <<-PYTHON || die "$1 takes no order to pause"
		import socket, sys
		s = socket.socket(socket.AF_UNIX)
		s.connect(sys.argv[1])
		s.send(b"$2")
		assert s.recv(1) == b"${2^^}"
	PYTHON
}

# --- what is checked -----------------------------------------------------------------------------

# fill NAME : 24 MiB of random data, remembered in $work/want.NAME, and all of it in its place.
fill() {
	head -c $((24 << 20)) /dev/urandom >"$work/want.$1"
	nbdcopy "$work/want.$1" "$(uri "$1")"
	"$EK" wait "$1" destage --timeout 60
}

# writes NAME SEED : 60 odd writes and a flush, remembered likewise.
writes() {
	odd_writes "$1" "$work/want.$1" "$2" 60 300000 || die "writing to $1 failed"
	nbdsh -u "$(uri "$1")" -c "h.flush()" || die "flushing $1 failed"
}
intact() { same "$1" "$work/want.$1"; }

member() { status "$1" "[.members[] | select(.path == \"$2\")][0].$3"; } # member NAME PATH KEY
said() { # said NAME DISK TEXT : a sentence in the daemon's log that has both
	grep -F -- "$2" "$work/run/$1.log" | grep -F -q -- "$3" ||
		die "the log of $1 has no sentence with \"$2\" and \"$3\""
}
is_state() { [ "$(member "$1" "$2" state)" = "$3" ]; }
# failed NAME DISK LEFT WHY : it is, the array goes on, LEFT more may go, and the log says why.
failed() {
	wait_for is_state "$1" "$2" failed
	[ "$(status "$1" .can_lose)" = "$3" ] || die "can_lose is $(status "$1" .can_lose), not $3"
	expect 1 "$EK" status "$1" --test
	said "$1" "$2 failed" "$4"
	step "it says: $(grep -F "$2 failed" "$work/run/$1.log")"
	intact "$1"
}
