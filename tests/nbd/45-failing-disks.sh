#!/bin/bash
# Disks that fail, natively: members that give errors when they are read, written or flushed, that
# are full, cut short, deleted, slow, or whose server dies. What is broken on purpose are files
# behind nbdkit and nbdfuse, and a small tmpfs; for those this needs root and FUSE.
#
# Each time: requests go on, the content is what it should be, the daemon's log names the disk and
# the reason, the status says it, and a later start knows it.
# shellcheck source=tests/nbd/array.sh
. "$(dirname "$0")/array.sh"
# shellcheck source=tests/nbd/broken.sh
. "$(dirname "$0")/broken.sh"
need nbdcopy nbdsh jq

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
start files --io-timeout 2 "$work"/disks/files.{2,3,4,5}
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

needs_fuse "files alone were tested; the rest"

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

step "a member that cannot be read: the others give it, the errors are counted, and it is failing"
touch "$work/fuse/reads/bad-read"
intact errors
[ "$(member errors "$(disk_of reads)" read_errors)" -gt 0 ] || die "no read error was counted"
expect 0 is_state errors "$(disk_of reads)" failing
said errors "$(disk_of reads) could not be read" "Input/output error"
said errors "$(disk_of reads) is failing" "There is no spare"
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
[ "$(status errors '[.members[].state] | join(" ")')" = "failing failed failed failed active failed active" ] ||
	die "$(status errors '[.members[].state] | join(" ")')"
intact errors
writes errors 6
stop errors
start errors
intact errors
stop errors

# --- disks that hang -----------------------------------------------------------------------------

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
