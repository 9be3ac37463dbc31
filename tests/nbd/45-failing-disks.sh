#!/bin/bash
# Disks that fail, natively: members that give errors when they are read, written or flushed, that
# are full, cut short, deleted, slow, or whose server dies. What is broken on purpose are files
# behind nbdkit and nbdfuse, and a small tmpfs; for those this needs root and FUSE.
#
# Each time: requests go on, the content is what it should be, the daemon's log names the disk and
# the reason, the status says it, and a later start knows it.
# shellcheck source=tests/nbd/array.sh
. "$(dirname "$0")/array.sh"
PATH=$PATH:/usr/sbin:/sbin
need nbdcopy nbdsh jq

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

# --- files ---------------------------------------------------------------------------------------

step "a member's file is deleted: it is held open, so nothing changes"
make files raid6 4 2 64M
start files
fill files
rm "$work/disks/files.0"
writes files 1
intact files
expect 0 "$EK" status files --test

step "a member's file is cut short while it is in use"
truncate -s 5M "$work/disks/files.1"
writes files 2
failed files "$work/disks/files.1" 1 "gone, or was cut short"
[ "$(stat -c %s "$work/disks/files.1")" = $((5 << 20)) ] || die "it was made long again"

step "a later start knows it; of the deleted one it says that it is missing"
kill9 files
expect 1 "$EK" start --via nbd "$work"/disks/files.{0,2,3,4,5}
start files "$work"/disks/files.{2,3,4,5}
[ "$(status files '[.members[].state] | join(" ")')" = "missing failed active active active active" ] ||
	die "$(status files '[.members[].state] | join(" ")')"
intact files
writes files 3

step "one too many: EIO for writes and for what cannot be read, nothing wrong, and no more"
"$EK" wait files destage
truncate -s 1M "$work/disks/files.2"
nbdsh -u "$(uri files)" -c - <<-PYTHON || die "the array did not behave"
	import nbd
	def refused(f):
	    try:
	        f()
	    except nbd.Error as e:
	        assert e.errno == "EIO", e
	        return True
	    return False
	# Large enough to need every member.
	assert refused(lambda: (h.pwrite(b"x" * (1 << 20), 0), h.flush())), "a write was taken"
	assert refused(lambda: h.pwrite(b"y" * 4096, 2 << 20)), "a later write was taken"
	want = open("$work/want.files", "rb").read()
	good = bad = 0
	for at in range(0, len(want), 65536):
	    got = []
	    if refused(lambda: got.append(h.pread(65536, at))):
	        bad += 1
	        continue
	    # The first write that was refused may be there or not.
	    data, refused_too = bytes(got[0]), at < 1 << 20 and bytes(got[0]) == b"x" * 65536
	    assert refused_too or data == want[at:at + 65536], "wrong data at %d" % at
	    good += 1
	print("read: %d, refused: %d" % (good, bad))
	assert good >= len(want) // 65536 // 3 and bad > 0
PYTHON
expect 2 "$EK" status files --test
said files "$work/disks/files.2 failed" "tolerates no more"
expect 1 "$EK" stop files
wait_for test ! -e "$work/run/files.pid"
expect 10 "$EK" start --via nbd "$work"/disks/files.{3,4,5}

# --- disks that give errors ----------------------------------------------------------------------

if [ "$(id -u)" != 0 ] || [ ! -e /dev/fuse ] || ! type -P nbdkit nbdfuse >/dev/null; then
	echo "skipped: files alone were tested; the rest needs root, /dev/fuse, nbdkit and nbdfuse"
	exit 77
fi

error_disk reads
error_disk writes
flush_disk flushes
fuse_disk dies file "$work/fuse/dies/image"
fuse_disk slow --filter=delay file "$work/fuse/slow/image" rdelay=3ms wdelay=3ms
mkdir "$work/small"
mount -t tmpfs -o size=12M tmpfs "$work/small"
mounts+=("$work/small")
truncate -s 64M "$work/small/disk"
small=$work/small/disk plain=$work/disks/plain
truncate -s 64M "$plain"

step "a slow member, one that knows neither fallocate nor trim, and a file system that gets full"
fallocate -p -o 0 -l 4096 "$(disk_of flushes)" 2>/dev/null && die "the hole was punched"
members=("$(disk_of reads)" "$(disk_of writes)" "$(disk_of dies)" "$(disk_of flushes)" "$(disk_of slow)" "$small" "$plain")
expect 0 "$EK" create errors --level rs --data 3 --parity 4 "${members[@]}"
start errors "${members[@]}"
fill errors
# All stripes go to new places: more than the file system has.
fill errors
writes errors 1
failed errors "$small" 3 "is full"
! grep -F "$small failed" "$work/run/errors.log" | grep -q gone || die "a full disk is called gone"
expect 0 is_state errors "$(disk_of slow)" active
expect 0 is_state errors "$(disk_of flushes)" active

step "a member that cannot be read: the others give it, and the errors are counted"
touch "$work/fuse/reads/bad-read"
intact errors
[ "$(member errors "$(disk_of reads)" read_errors)" -gt 0 ] || die "no read error was counted"
expect 0 is_state errors "$(disk_of reads)" active
said errors "$(disk_of reads) could not be read" "Input/output error"
writes errors 2
intact errors

step "a member that cannot be written"
touch "$work/fuse/writes/bad-write"
writes errors 3
failed errors "$(disk_of writes)" 2 "writing to it ended with: Input/output error"
[ "$(member errors "$(disk_of writes)" write_errors)" -gt 0 ] || die "no write error was counted"
rm "$work/fuse/reads/bad-read" "$work/fuse/writes/bad-write"

step "a member that cannot be flushed"
touch "$work/fuse/flushes/bad-flush"
writes errors 4
failed errors "$(disk_of flushes)" 1 "flushing its cache ended with: Input/output error"
rm "$work/fuse/flushes/bad-flush"

step "a member whose server dies"
kill -9 "$(cat "$work/fuse/dies/nbdfuse.pid")"
writes errors 5
failed errors "$(disk_of dies)" 0 "gone"

step "none of them comes back by itself, whole as they are now"
kill9 errors
start errors
[ "$(status errors '[.members[].state] | join(" ")')" = "active failed failed failed active failed active" ] ||
	die "$(status errors '[.members[].state] | join(" ")')"
intact errors
writes errors 6
stop errors
start errors
intact errors
stop errors

# --- disks that hang -----------------------------------------------------------------------------

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
hang() {
	/usr/bin/python3 - "$work/fuse/$1/control" <<-PYTHON || die "$1 cannot be paused"
		import socket, sys
		s = socket.socket(socket.AF_UNIX)
		s.connect(sys.argv[1])
		s.send(b"p")
		assert s.recv(1) == b"P"
	PYTHON
}

step "members that hang: what waits for them goes on within the bound"
hanging_file stuck
stuck=$(disk_of stuck)
hanging_disk frozen
frozen=$loop
members=("$stuck" "$frozen" "$work"/disks/hung.{2,3,4,5})
truncate -s 64M "${members[@]:2}"
expect 0 "$EK" create hung --level raid6 "${members[@]}"
start hung --io-timeout 1 "${members[@]}"
fill hung
hang stuck
began=$SECONDS
writes hung 3
# A tick more than the bound, the grace and the rest are two seconds; a machine may be slow.
[ $((SECONDS - began)) -le 15 ] || die "60 writes took $((SECONDS - began)) s"
failed hung "$stuck" 1 "no answer"
hang frozen
writes hung 1
failed hung "$frozen" 0 "no answer"
writes hung 2
"$EK" wait hung destage --timeout 60
intact hung
