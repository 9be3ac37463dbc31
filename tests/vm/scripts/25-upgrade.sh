#!/bin/bash
# The daemon is replaced under a mounted, busy ext4: by `upgrade`, several times in a row; by a start after
# it was killed and after it aborted, again and again (with EVENKEEL_FULL=1: killed thirty times); and by
# one that does not come up. The device stays, nobody sees an error, and all data are right. It says
# how long a write took at most, each time.
#
#   tests/vm/boot --disks 6 --size 128M tests/vm/scripts/25-upgrade.sh
#   tests/vm/boot --kernel 6.12 --disks 6 --size 128M tests/vm/scripts/25-upgrade.sh
#
# boot: --disks 6 --size 128M --limit 600
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "${BASH_SOURCE[0]%/*}/lib.sh"
. "${BASH_SOURCE[0]%/*}/load.sh"

mnt=$work/mnt
mkdir -p "$mnt"
read -ra disks <<<"${EVENKEEL_DISKS:-}"
upgrades=3 signals=(KILL ABRT KILL ABRT)
if [ "${EVENKEEL_FULL:-0}" = 1 ]; then
	signals+=(ABRT)
	for ((i = 2; i < 30; i++)); do signals+=(KILL); done
fi

# A writer beside fio, one request at a time: every write that took 20 ms or longer is a line, when and how
# long. At the end it compares what it wrote; its last line says how much that was.
probe() {
	rm -f "$work/probe.stop"
	/usr/bin/python3 - "$mnt/probe" "$work/probe.stop" >"$work/probe.out" 2>"$work/probe.err" <<-'PYTHON' &
		import mmap, os, random, sys, time
		path, stop = sys.argv[1:]
		fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT)
		page, r, want, writes = mmap.mmap(-1, 4096), random.Random(1), {}, 0
		while not os.path.exists(stop):
		    at, data = 4096 * r.randrange(256), r.randbytes(16) * 256
		    page[:] = data
		    begun = time.monotonic()
		    assert os.pwrite(fd, page, at) == 4096
		    ms = (time.monotonic() - begun) * 1000
		    writes += 1
		    want[at] = data
		    if ms >= 20:
		        print(round(ms), flush=True)
		for at, data in want.items():
		    assert os.preadv(fd, [page], at) == 4096 and page[:] == data, f"byte {at} differs"
		print("right:", writes, "writes", flush=True)
	PYTHON
	probe_pid=$!
	jobs_running+=("$probe_pid")
}
# longest SINCE : the longest write of those lines.
longest() { tail -n "+$((1 + $1))" "$work/probe.out" | sort -n | tail -n 1; }
lines() { wc -l <"$work/probe.out"; }
# all_go_on : both writers have got an answer that they waited for.
all_go_on() {
	load_alive || fail "fio ended: $(cat "$work/fio-load.out")"
	kill -0 "$probe_pid" 2>/dev/null || fail "the other writer ended: $(cat "$work/probe.err")"
	wait_busy
}
settings_of() { # but for the number of the process, which is another each time
	/usr/bin/python3 - "$run_dir/$array.sock" <<-'PYTHON' | jq -cS '.ok | del(.pid)'
		import socket, sys
		s = socket.socket(socket.AF_UNIX)
		s.connect(sys.argv[1])
		s.sendall(b'{"op":"settings"}\n')
		print(s.makefile().readline(), end="")
	PYTHON
}
refused() { # refused CODE WORDS ARGUMENT...
	local rc=0 want=$1 words=$2
	shift 2
	timeout 60 "$evenkeel" "$@" >"$work/refused" 2>&1 </dev/null || rc=$?
	[ $rc = "$want" ] || fail "exit status $rc, not $want: $(quoted evenkeel "$@"): $(cat "$work/refused")"
	grep -q -- "$words" "$work/refused" || fail "it does not say \"$words\": $(cat "$work/refused")"
	ok "exit status $want: $(quoted evenkeel "$@")"
}

step "A RAID-6 of six disks with ext4 and two writers, on $(uname -sr)"
run "$evenkeel" create "$array" --level raid6 "${disks[@]}"
start_array "${disks[@]}" --io-timeout 25 --checksum-cache 2M
first_device=$device
run mkfs.ext4 -q "$device"
mount_it
mkdir "$mnt/files"
find /usr/bin -maxdepth 1 -type f -size -200k -print0 | sort -z | head -z -n 60 | xargs -0 cp -t "$mnt/files"
(cd "$mnt" && find files -type f -exec sha256sum {} + >"$work/sums")
load load "$mnt/load" --size=4m
probe
until_true 60 test -s "$mnt/probe" || fail "the other writer does not begin: $(cat "$work/probe.err")"

step "Refused, and the daemon goes on: what does not fit the device"
old_pid=$(daemon_pid)
refused 2 "goes on with --ack cached" start "$array" --takeover --ack durable
refused 2 "served over ublk" start "$array" --takeover --via nbd
refused 2 "can be written to" start "$array" --takeover --read-only
expect "the daemon" "$(daemon_pid)" = "$old_pid"

step "Upgrade it $upgrades times in a row, under load"
settings=$(settings_of)
for ((i = 1; i <= upgrades; i++)); do
	all_go_on
	old_pid=$(daemon_pid) seen=$(lines)
	run "$evenkeel" upgrade "$array"
	grep -q "^$first_device\$" "$work/run.out" || fail "it does not print $first_device"
	[ "$(daemon_pid)" != "$old_pid" ] || fail "it is the same daemon"
	[ "$(settings_of)" = "$settings" ] || fail "other options: $(settings_of), not $settings"
	all_go_on
	until_true 30 test "$(lines)" -gt "$seen"
	say "The longest write took $(longest "$seen") ms."
done
quiesced=$(grep -c "is quiesced" "$run_dir/$array.log")
case $(uname -r) in
6.*) expect "times that this kernel quiesced the device, which it cannot" "$quiesced" = 0 ;;
*) expect "times that the kernel quiesced the device" "$quiesced" = "$upgrades" ;;
esac

step "The new daemon does not come up: the device waits, and the next start goes on"
seen=$(lines)
rc=0
prlimit --nofile=14 "$evenkeel" upgrade "$array" >"$work/refused" 2>&1 </dev/null || rc=$?
indent <"$work/refused"
expect "exit status" $rc = 1
grep -q "$first_device is there, mounted or not, and its requests wait" "$work/refused" || fail "it does not say so"
start_array "$array"
expect "the device, the same as before" "$device" = "$first_device"
all_go_on

step "Kill it and let it abort, ${#signals[@]} times, under load"
for signal in "${signals[@]}"; do
	old_pid=$(daemon_pid)
	kill -"$signal" "$old_pid"
	until_true 30 test ! -e "/proc/$old_pid/exe" || fail "the daemon does not die"
	timeout 120 "$evenkeel" start "$array" --takeover >"$work/start.out" 2>&1 </dev/null || fail "no start: $(cat "$work/start.out")"
	[ "$(tail -n 1 "$work/start.out")" = "$first_device" ] || fail "another device: $(cat "$work/start.out")"
	all_go_on
done
say "The longest write of all took $(longest 0) ms."

step "All data are right"
load_ends
touch "$work/probe.stop"
wait "$probe_pid" || fail "the other writer saw an error: $(cat "$work/probe.err")"
ok "it is as the other writer left it, $(tail -n 1 "$work/probe.out")"
(cd "$mnt" && sha256sum load probe) >>"$work/sums"
umount_it
run e2fsck -fn "$device"
mount_it
(cd "$mnt" && sha256sum --quiet -c "$work/sums") || fail "files differ"
ok "all $(wc -l <"$work/sums") files have the SHA-256 they should have"
umount_it
dmesg | grep -iE 'I/O error|Buffer I/O|EXT4-fs error|aborted journal' && fail "the kernel saw errors"
ok "the kernel saw no error"
stop_array
summary "Replaced, killed and aborted under load: no error, and every byte is there."
