#!/bin/bash
# A daemon that serves clients is replaced by `upgrade` and by `start --takeover`, again and again, is
# killed or aborts: clients connect again and go on, no request gets an error, nothing that was
# acknowledged is lost, and the options stay. What the new daemon could not go on with is refused while
# the old one still serves; where the new one does not come up, the array is there for the next.
#
# $UPGRADES (default 4) is how often it is replaced under load, $SIZE the size of a member (64M), $LOG that of
# the log on it (8M). The longest time that a write took is printed.
# shellcheck source=tests/nbd/array.sh
. "$(dirname "$0")/array.sh"
need nbdcopy nbdsh jq python3 prlimit
upgrades=${UPGRADES:-4}

said() { grep -q -- "$1" "$work/err" || { cat "$work/err" >&2; die "\"$1\" is not said"; }; }
ask() { # ask NAME REQUEST : the answer of the control socket
	python3 - "$work/run/$1.sock" "$2" <<-'PYTHON'
		import socket, sys
		s = socket.socket(socket.AF_UNIX)
		s.connect(sys.argv[1])
		s.sendall(sys.argv[2].encode() + b"\n")
		print(s.makefile().readline(), end="")
	PYTHON
}
# settings_of NAME : what the daemon says of its options, but for what differs by nature.
settings_of() { ask "$1" '{"op":"settings"}' | jq -cS '.ok | del(.pid)'; }

# clients NAME SOCKET : four clients write numbers, each to blocks of its own and one request at a time,
# until $work/enough is there. One that loses its connection connects again and sends its request again;
# an answer that is an error ends it with status 1. At the end each compares what it wrote. Prints how
# many writes there were, how many connections, and the longest a write took, retries included.
clients() {
	rm -f "$work/enough" "$work"/clients.*
	python3 - "$1" "$2" "$work/enough" <<-'PYTHON' >"$work/clients.out" 2>"$work/clients.err" &
		import os, random, sys, threading, time
		sys.path.append("/usr/lib/python3/dist-packages")
		import nbd
		name, socket, enough = sys.argv[1:]
		writes, links, longest, wrong = [0] * 4, [0] * 4, [0.0] * 4, []

		def link(c):
		    links[c] += 1
		    end = time.monotonic() + 60
		    while True:
		        h = nbd.NBD()
		        try:
		            h.connect_unix(socket)
		            return h
		        except nbd.Error:
		            if time.monotonic() > end:
		                raise
		            time.sleep(0.001)

		def ask(c, h, f):
		    while True:
		        try:
		            return h, f(h)
		        except nbd.Error as e:
		            if h.aio_is_ready():
		                raise AssertionError(f"an answer is an error: {e}")
		            h = link(c)

		def client(c):
		    try:
		        r, want = random.Random(c), {}
		        h = link(c)
		        while not os.path.exists(enough):
		            block = c + 4 * r.randrange(2000)
		            data = r.randbytes(16) * 256
		            begun = time.monotonic()
		            h, _ = ask(c, h, lambda h: h.pwrite(data, block * 4096))
		            longest[c] = max(longest[c], time.monotonic() - begun)
		            writes[c] += 1
		            want[block] = data
		        for block, data in want.items():
		            h, got = ask(c, h, lambda h: h.pread(4096, block * 4096))
		            assert got == data, f"block {block} does not hold what was acknowledged last"
		    except BaseException as e:
		        wrong.append(f"client {c}: {e}")

		all = [threading.Thread(target=client, args=[c]) for c in range(4)]
		[t.start() for t in all]
		[t.join() for t in all]
		print(sum(writes), sum(links), round(max(longest) * 1000))
		if wrong:
		    sys.exit("\n".join(wrong))
	PYTHON
	clients=$!
	sleep 0.5
}
no_more_clients() { # sets writes= connections= longest=
	touch "$work/enough"
	wait $clients || die "a client saw an error: $(cat "$work/clients.err")"
	read -r writes connections longest <"$work/clients.out"
	step "$writes writes over $connections connections, the longest took $longest ms"
}
# unmoved NAME PID : the same daemon serves as before.
unmoved() {
	[ "$(pid_of "$1")" = "$2" ] || die "another daemon serves, or none"
	expect 0 "$EK" status "$1" --test
}

step "$upgrades upgrades under four clients, all options kept"
make a raid6 4 2 "${SIZE:-64M}" --log-size "${LOG:-8M}"
socket=$work/elsewhere
mapfile -t disks < <(disks a 6)
"$EK" start "${disks[@]}" --via nbd --socket "$socket" --ack durable --io-timeout 7 --checksum-cache 2M
settings=$(settings_of a) waited=''
clients a "$socket"
for ((i = 0; i < upgrades; i++)); do
	before=$(pid_of a)
	expect 0 "$EK" upgrade a
	[ "$(cat "$work/out")" = "$socket" ] || die "upgrade printed $(cat "$work/out")"
	waited+=" $(sed -n 's/.*Taken over from the daemon that ran: requests waited for //p' "$work/err")"
	[ "${waited: -3}" = "ms." ] || die "upgrade does not say how long requests waited"
	[ "$(pid_of a)" != "$before" ] || die "it is the same daemon"
	while kill -0 "$before" 2>/dev/null; do sleep 0.01; done
	[ "$(settings_of a)" = "$settings" ] || die "options: $(settings_of a), not $settings"
	[ "$(status a .ack)" = durable ] || die "ack $(status a .ack)"
	sleep 0.3
done
no_more_clients
step "by the new daemons' own clocks:$waited"
[ "$connections" -ge $((4 + 4 * upgrades)) ] || die "not all clients lost their connection each time"
expect 0 "$EK" status a --test

step "a signal and an abort, in turn, under four clients: as kill -9"
clients a "$socket"
for signal in KILL ABRT KILL ABRT; do
	now=$(pid_of a)
	kill -$signal "$now"
	while kill -0 "$now" 2>/dev/null; do sleep 0.01; done
	expect 0 "$EK" start a --via nbd --socket "$socket" --takeover
	sleep 0.2
done
no_more_clients
[ "$(find "/dev/shm/evenkeel-$(cat "$work/run/identity")" -name 'ring-*' | wc -l)" = 1 ] || die "rings are left"

step "start --takeover: other options where nobody loses by it, else refused (2)"
expect 0 "$EK" start a --takeover --ack durable --io-timeout 9
[ "$(settings_of a | jq -c '[.ack, .io_timeout_s, .socket]')" = "[\"durable\",9,\"$socket\"]" ] || die "$(settings_of a)"
now=$(pid_of a)
expect 2 "$EK" start a --takeover --via ublk
expect 2 "$EK" start "${disks[@]}" --takeover --read-only
expect 2 "$EK" start a --takeover --socket "$work/other"
said "listens at $socket"
expect 13 "$EK" start a --via nbd
unmoved a "$now"

step "no daemon: upgrade says so, and start --takeover starts"
kill9 a
expect 1 "$EK" upgrade a
said "evenkeel start a"
expect 0 "$EK" start a --takeover --via nbd
stop a
expect 1 "$EK" upgrade a
start a

step "refused while the old one serves: versions, flags, members that are not there"
now=$(pid_of a)
mkdir "$work/kept"
"$EK" wait a destage
for field in "8 02000000 version.2" "8 00000000 version.0" "80 0001000000000000 flags" "72 0001000000000000 to.write"; do
	read -r at hex words <<<"$field"
	cp --sparse=always "${disks[2]}" "$work/kept"
	patch "$at" "$hex" "${disks[2]}"
	for verb in "upgrade a" "start a --takeover" "start ${disks[0]} --takeover"; do
		# shellcheck disable=SC2086 # words
		expect 17 "$EK" $verb
		said "$words"
		said "Nothing was changed"
	done
	unmoved a "$now"
	dd if="$work/kept/a.2" of="${disks[2]}" bs=64K conv=notrunc status=none
done
mv "${disks[4]}" "$work/kept/a.4"
expect 1 "$EK" upgrade a
said "does not find it"
mv "$work/kept/a.4" "${disks[4]}"
unmoved a "$now"
"$EK" fail a "${disks[5]}"
expect 0 "$EK" upgrade a
expect 1 "$EK" status a --test

step "a daemon of a version that cannot hand over"
python3 - "$work/run/old.sock" <<-'PYTHON' &
	import socket, sys
	s = socket.socket(socket.AF_UNIX)
	s.bind(sys.argv[1])
	s.listen()
	c = s.accept()[0]
	c.recv(1000)
	c.sendall(b'{"error":{"code":2,"message":"This is not a request that I know."}}\n')
PYTHON
old=$!
while [ ! -S "$work/run/old.sock" ]; do sleep 0.01; done
expect 17 "$EK" upgrade old
said "cannot hand over"
wait $old
rm "$work/run/old.sock"

step "the new daemon does not come up: it is said what is safe, and the next start goes on"
clients a "$work/run/a.nbd"
expect 1 prlimit --nofile=12 "$EK" upgrade a
said "The old daemon has left and no new one serves. Nothing that was acknowledged is lost"
hint=$(grep -o 'evenkeel start a .*' "$work/err")
expect 4 "$EK" status a --test
# shellcheck disable=SC2086 # as it is to be typed
expect 0 "$EK" ${hint#evenkeel }
no_more_clients

step "killed at any moment, the old daemon or the new one serves, or the next start goes on"
clients a "$work/run/a.nbd"
upgrading() { # the processes that are the new daemon, or become it
	local environment pid
	for environment in $(grep -lzs "^EVENKEEL_RUN_DIR=$work/run$" /proc/[0-9]*/environ); do
		pid=${environment//[^0-9]/}
		if tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -q "^$EK upgrade a "; then echo "$pid"; fi
	done
}
# A daemon that was asked by one that is dead now goes on, once it has noticed.
takes_over() {
	local end=$((SECONDS + 30))
	until "$EK" start a --takeover --via nbd >"$work/out" 2>"$work/err"; do
		said "already"
		[ $SECONDS -lt $end ] || die "it does not go on"
		sleep 0.1
	done
}
for ms in 1 5 15 30 60 90 130 180; do
	takes_over
	serving=$(pid_of a)
	"$EK" upgrade a >/dev/null 2>&1 &
	sleep "0.$(printf %03d $ms)"
	for pid in $(upgrading); do [ "$pid" = "$serving" ] || kill -9 "$pid" 2>/dev/null || true; done
	wait $! 2>/dev/null || true
done
takes_over
no_more_clients

step "two at once: in the end one serves"
clients a "$work/run/a.nbd"
"$EK" upgrade a >/dev/null 2>&1 &
"$EK" upgrade a >/dev/null 2>"$work/second" || grep -q . "$work/second" || die "a failure without a word"
wait $! || true
expect 1 "$EK" status a --test
no_more_clients
stop a

step "read-only, and started by force: it stays so, and nothing is written"
make b raid5 2 1 32M --log-size 2M
start b
nbdsh -u "$(uri b)" -c 'h.pwrite(bytes([7]) * 8192, 4096)'
kill9 b
rm "/dev/shm/evenkeel-$(cat "$work/run/identity")"/ring-*
before=$(sha256sum "$work"/disks/b.*)
start b --read-only --force
expect 0 "$EK" upgrade b
expect 0 "$EK" upgrade b
[ "$(settings_of b | jq -c '[.read_only, .force]')" = "[true,true]" ] || die "$(settings_of b)"
stop b
[ "$before" = "$(sha256sum "$work"/disks/b.*)" ] || die "something was written"
step "all held"
