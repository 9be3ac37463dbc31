#!/bin/bash
# What is missing on a machine: room under the members, file descriptors, locked memory, io_uring, a run
# directory, shared memory. Each is refused with a sentence and the exit code 1, nothing is changed on
# any disk, and the same command works when it is there again. Nothing is set for the whole machine: limits,
# filters and mounts are of this test's own processes.
#
# shellcheck source=tests/nbd/array.sh
. "$(dirname "$0")/array.sh"

# What this test mounts goes first.
end() {
	local code=$?
	if mountpoint -q "$work/small"; then umount -l "$work/small"; fi
	(exit "$code")
	take_down
}
trap end EXIT

need python3 nbdsh nbdcopy prlimit setpriv jq

# sums NAME N : what is on the disks of an array.
sums() {
	local all
	mapfile -t all < <(disks "$1" "$2")
	sha256sum "${all[@]}"
}

# says WORDS : the last refusal did.
says() { grep -q -- "$1" "$work/err" "$work/out" || { cat "$work/err" >&2; die "\"$1\" is not said"; }; }

# refused NAME N WORDS COMMAND... : exit code 1, these words, not a byte on a disk; then it starts.
refused() {
	local name=$1 n=$2 words=$3 before
	shift 3
	before=$(sums "$name" "$n")
	expect 1 "$@"
	says "$words"
	[ "$(sums "$name" "$n")" = "$before" ] || die "a disk has changed: $*"
}

head -c 3000000 /dev/urandom >"$work/content"
make r raid6 4 2 32M >"$work/out"
mapfile -t all < <(disks r 6)
start r "${all[@]}"
nbdcopy "$work/content" "$(uri r)"
stop r

step "io_uring is refused"
# ENOSYS is a kernel without it, EPERM one that forbids it, ENOMEM a limit on locked memory.
for errno in EPERM ENOSYS ENOMEM; do
	refused r 6 "gives no io_uring" python3 "$here/refuse.py" $errno "$EK" start --via nbd "${all[@]}"
done
says "ulimit -l"
expect 1 python3 "$here/refuse.py" EPERM "$EK" create u --level raid5 --file-size 32M "$work"/disks/u.{0,1,2}
says "kernel.io_uring_disabled"
for disk in "$work"/disks/u.*; do [ ! -s "$disk" ] || die "$disk was written to"; done
rm -f "$work"/disks/u.*
start r "${all[@]}"
same r "$work/content"
stop r

step "memory may not be locked"
# As root that is a matter of a capability. Some kernels then give no ring: that is refused. Others
# do: then it serves, and says what may happen.
if prlimit --memlock=0 setpriv --bounding-set=-ipc_lock --inh-caps=-ipc_lock \
	"$EK" start --via nbd "${all[@]}" >"$work/out" 2>"$work/err"; then
	says "memory"
	same r "$work/content"
	stop r
else
	refused r 6 "CAP_IPC_LOCK" prlimit --memlock=0 setpriv --bounding-set=-ipc_lock --inh-caps=-ipc_lock \
		"$EK" start --via nbd "${all[@]}"
fi
start r "${all[@]}"
same r "$work/content"
stop r

step "the run directory cannot be made"
refused r 6 "EVENKEEL_RUN_DIR" env EVENKEEL_RUN_DIR="$work/content/run" "$EK" start --via nbd "${all[@]}"
start r "${all[@]}"
stop r

step "shared memory is full"
# In a mount namespace of its own.
if unshare -m true 2>"$work/err"; then
	# shellcheck disable=SC2016 # expanded by the inner shell
	refused r 6 "/dev/shm" unshare -m bash -c \
		'mount -t tmpfs -o size=64k none /dev/shm && exec "$@"' - "$EK" start --via nbd "${all[@]}"
	start r "${all[@]}"
	same r "$work/content"
	stop r
else
	step "skipped, no mount namespace: $(cat "$work/err")"
fi

step "file descriptors run out under clients"
start r "${all[@]}"
pid=$(pid_of r)
# Room for a few clients, not for all of them.
open=$(find "/proc/$pid/fd" -mindepth 1 | wc -l)
limit=$((open + 6))
prlimit --pid "$pid" --nofile=$limit:$limit
python3 - "$work/run/r.nbd" <<-'PYTHON'
	import socket, sys
	clients = []
	for _ in range(40):
	    s = socket.socket(socket.AF_UNIX)
	    s.connect(sys.argv[1])
	    clients.append(s)
	# Those that are served have the greeting at once; the others wait, and are not cut off.
	clients[0].settimeout(20)
	assert clients[0].recv(18)[:8] == b"NBDMAGIC"
	for s in clients:
	    s.close()
PYTHON
same r "$work/content"
[ "$(status r .state)" = healthy ] || die "it is $(status r .state)"
kill -0 "$pid" || die "the daemon has ended"
stop r

step "the file system under all members is full"
mkdir "$work/small"
if mount -t tmpfs -o size=64k none "$work/small" 2>"$work/err"; then
	small=("$work"/small/{0,1,2})
	expect 1 "$EK" create full --level raid5 --file-size 64M "${small[@]}"
	says "full"
	for disk in "${small[@]}"; do [ ! -e "$disk" ] || rm "$disk"; done
	mount -o remount,size=40m "$work/small"
	"$EK" create full --level raid5 --file-size 64M "${small[@]}" >"$work/out"
	start full "${small[@]}" --io-timeout 1
	# What was flushed, and how far the rest came, is written down.
	nbdsh -u "$(uri full)" -c - >"$work/reached" <<-'PYTHON'
		import nbd
		block = 1 << 20
		flushed = 0
		try:
		    for n in range(100):
		        h.pwrite(bytes([n + 1]) * block, n * block)
		        h.flush()
		        flushed = n + 1
		except nbd.Error as e:
		    pass
		print(flushed)
	PYTHON
	flushed=$(cat "$work/reached")
	((flushed > 0 && flushed < 100)) || die "$flushed MiB were flushed"
	# All members are full, so none is failed for it; the device takes no writes, and says so.
	grep -q "full" "$work/run/full.log" || die "the log of the daemon does not say that it is full"
	kill9 full
	mount -o remount,size=300m "$work/small"
	start full "${small[@]}"
	nbdsh -u "$(uri full)" -c - <<-PYTHON
		block = 1 << 20
		for n in range($flushed):
		    assert h.pread(block, n * block) == bytes([n + 1]) * block, f"MiB {n} is not what was flushed"
		h.pwrite(bytes([200]) * block, 0)
		h.flush()
	PYTHON
	[ "$(status full .state)" = healthy ] || die "it is $(status full .state)"
	stop full
	step "$flushed MiB were flushed before it was full, and are there"
	umount "$work/small"
else
	step "skipped, no tmpfs: $(cat "$work/err")"
fi

step "done"
