#!/bin/bash
# The NBD server as other people's clients see it: what is offered, what is refused, and that a
# connection goes on after a refusal.
# shellcheck source=tests/nbd/array.sh
. "$(dirname "$0")/array.sh"
need nbdinfo nbdsh qemu-io qemu-img jq python3

make a raid6 4 2 96M
start a
u=$(uri a)

step "what nbdinfo sees"
nbdinfo --json "$u" >"$work/info"
info() { jq -r ".exports[0].$1" "$work/info"; }
[ "$(info '"export-size"')" = "$(status a .size_bytes)" ] || die "size"
for can in can_flush can_fua can_trim can_zero can_fast_zero can_cache can_df can_multi_conn; do
	[ "$(info $can)" = true ] || die "$can"
done
[ "$(info is_read_only)" = false ] || die "read-only"
[ "$(info block_size_minimum) $(info block_size_preferred) $(info block_size_maximum)" = "1 4096 1048576" ] ||
	die "block sizes"
nbdinfo --list "$u" | grep -q '^export="a":' || die "list"
nbdinfo --size "nbd+unix:///a?socket=$work/run/a.nbd" >/dev/null || die "export by name"
if nbdinfo "nbd+unix:///b?socket=$work/run/a.nbd" >/dev/null 2>&1; then die "unknown export"; fi

step "requests, good and bad, on one connection"
nbdsh -u "$u" -c - <<'PYTHON'
import errno
h.set_strict_mode(0)
size = h.get_size()

def refused(f, *numbers):
    try:
        f()
    except nbd.Error as e:
        assert e.errno in [errno.errorcode[n] for n in numbers], e
    else:
        raise AssertionError("was not refused")

h.pwrite(b"x", size - 1)
assert h.pread(1, size - 1) == b"x"
for f in [lambda: h.pread(1, size), lambda: h.pread(2, size - 1), lambda: h.pread(1, 1 << 63),
          lambda: h.trim(2, size - 1)]:
    refused(f, errno.EINVAL)
for f in [lambda: h.pwrite(b"xy", size - 1), lambda: h.zero(2, size - 1)]:
    refused(f, errno.ENOSPC)
assert h.pread(1, size - 1) == b"x"

big = bytes(range(256)) * 4096
h.pwrite(big, 12345)
assert h.pread(1 << 20, 12345) == big
refused(lambda: h.pwrite(big + b"!", 0), errno.EINVAL)
refused(lambda: h.pwrite(big * 3, 0), errno.EINVAL)
refused(lambda: h.pread((1 << 20) + 1, 0), errno.EINVAL)
assert h.pread(1 << 20, 12345) == big, "the connection went on"

h.pwrite(b"fua", 4095, nbd.CMD_FLAG_FUA)
assert h.pread(5, 4094) == b"\0fua\0"
h.zero(4096, 8192, nbd.CMD_FLAG_FAST_ZERO)
refused(lambda: h.zero(4096, 1, nbd.CMD_FLAG_FAST_ZERO), errno.ENOTSUP)
h.zero(100, 12345 + 50)
assert h.pread(200, 12345) == big[:50] + bytes(100) + big[150:200]
h.zero(100, 12345 + 50, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA)
h.trim(size, 0)
assert h.pread(1 << 20, 0) == bytes(1 << 20) and h.pread(1, size - 1) == b"\0"
h.cache(size, 0)
refused(lambda: h.cache(2, size - 1), errno.EINVAL)
h.flush()
PYTHON

step "many requests in flight, replies in any order, read back"
nbdsh -u "$u" -c - <<'PYTHON'
import random
r = random.Random(7)
size = 8 << 20
want = bytearray(size)
for round in range(20):
    places = sorted(r.sample(range(size // 4096), 100))
    cookies = []
    for p in places:
        n = r.randrange(1, 4097)
        data = r.randbytes(n)
        want[p * 4096:p * 4096 + n] = data
        cookies.append(h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), p * 4096))
    while cookies:
        h.poll(-1)
        cookies = [c for c in cookies if not h.aio_command_completed(c)]
for at in range(0, size, 1 << 20):
    assert h.pread(1 << 20, at) == want[at:at + (1 << 20)]
PYTHON

step "two connections: a flush covers both, and each sees the other's writes"
nbdsh -c - <<PYTHON
a, b = nbd.NBD(), nbd.NBD()
a.connect_uri("$u")
b.connect_uri("$u")
for i in range(50):
    a.pwrite(bytes([i + 1]) * 4096, i * 4096)
    b.flush()
    assert b.pread(4096, i * 4096) == bytes([i + 1]) * 4096
PYTHON
kill9 a
start a
nbdsh -u "$u" -c 'assert h.pread(4096, 49 * 4096) == bytes([50]) * 4096'

step "qemu's own checks"
qemu-io -f raw "$u" -c 'write -P 7 0 1M' -c 'write -z 4k 64k' -c 'read -P 0 4k 64k' \
	-c 'read -P 7 68k 900k' -c 'discard 0 1M' -c 'read -P 0 0 1M' -c 'write -f -P 9 513 7' \
	-c 'read -P 9 513 7' -c 'aio_write -P 3 0 128k' -c 'aio_write -P 4 1M 128k' -c aio_flush \
	-c 'read -P 3 0 128k' -c 'read -P 4 1M 128k' >"$work/qemu"
if grep -Ei 'error|fail|verif' "$work/qemu"; then die "qemu-io"; fi
qemu-img bench -f raw -w -c 2000 -d 64 -s 4k "$u" >/dev/null

step "garbage: the server goes on, and its memory stays bounded"
nbdsh -u "$u" -c 'h.pwrite(bytes([4]) * 4096, 64 << 20)' # the garbage stays below
before=$(awk '/VmRSS/ {print $2}' "/proc/$(pid_of a)/status")
python3 - "$work/run/a.nbd" "$work/run/a.sock" <<'PYTHON'
import json, random, socket, struct, sys
r = random.Random(1)

def connect(path):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    s.settimeout(5)
    s.connect(path)
    return s

def drain(s):
    try:
        while s.recv(65536):
            pass
    except (socket.timeout, ConnectionError):
        pass

def say(s, data):
    try:
        s.sendall(data)
        s.shutdown(socket.SHUT_WR)
        drain(s)
    except ConnectionError:
        pass
    s.close()

GO = struct.pack(">QIIIH", 0x49484156454f5054, 7, 6, 0, 0)
for i in range(300):
    kind = i % 5
    s = connect(sys.argv[1])
    if kind == 0:
        say(s, r.randbytes(r.randrange(2000)))
    elif kind == 1:  # garbage as an option
        say(s, struct.pack(">I", 3) + struct.pack(">QII", 0x49484156454f5054, r.randrange(12),
            r.choice([0, 6, 5000, 1 << 20, 0xffffffff])) + r.randbytes(r.randrange(6000)))
    elif kind == 2:  # garbage as requests
        say(s, struct.pack(">I", 3) + GO + r.randbytes(r.randrange(3000)))
    elif kind == 3:  # headers that are almost right
        say(s, struct.pack(">I", 3) + GO + b"".join(
            struct.pack(">IHHQQI", 0x25609513, r.randrange(32), r.randrange(9), i,
                r.choice([0, 1 << 20, 1 << 40, (1 << 64) - 1]),
                r.choice([0, 1, 4096, 1 << 20, (1 << 20) + 1])) for _ in range(20)))
    else:  # leaves in the middle of a payload
        s.sendall(struct.pack(">I", 3) + GO + struct.pack(">IHHQQI", 0x25609513, 0, 1, 1, 0, 1 << 20))
        s.close()

# Asks for much and takes nothing: it stalls itself alone.
stalled = [connect(sys.argv[1]) for _ in range(3)]
for s in stalled:
    s.settimeout(1)
    s.sendall(struct.pack(">I", 3) + GO)
    try:
        for i in range(2000):
            s.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 0, i, 0, 1 << 20))
    except socket.timeout:
        pass

for line in [b"\0\xff\n", b"{}\n", b"[" * 60000 + b"\n", b'{"op":"status","x":1}\n', b"x" * 200000]:
    c = connect(sys.argv[2])
    try:
        c.sendall(line)
        answer = json.loads(c.makefile().readline())
        assert "error" in answer or "ok" in answer, answer
    except ConnectionError:
        pass
    c.close()

n = connect(sys.argv[1])
assert n.recv(18, socket.MSG_WAITALL)[:8] == b"NBDMAGIC"
PYTHON
nbdsh -u "$u" -c 'assert h.pread(4096, 64 << 20) == bytes([4]) * 4096'
after=$(awk '/VmRSS/ {print $2}' "/proc/$(pid_of a)/status")
((after - before < 200 * 1024)) || die "memory grew from $before to $after KiB"

step "stop is refused while a client is connected"
nbdsh -u "$u" -c 'import time; h.pread(1, 0); open("'"$work/connected"'", "w"); time.sleep(60)' &
client=$!
while [ ! -e "$work/connected" ]; do sleep 0.05; done
expect 1 "$EK" stop a
nbdinfo --size "$u" >/dev/null || die "it serves on"
stop a --force
kill "$client" 2>/dev/null || true
wait "$client" 2>/dev/null || true

step "read-only"
start a --read-only
nbdinfo --json "$u" | jq -e '.exports[0].is_read_only' >/dev/null || die "not read-only"
nbdsh -u "$u" -c - <<'PYTHON'
h.set_strict_mode(0)
try:
    h.pwrite(b"x", 0)
except nbd.Error as e:
    assert e.errno == "EPERM", e
else:
    raise AssertionError("was not refused")
assert h.pread(4096, 64 << 20) == bytes([4]) * 4096
PYTHON
stop a
step "done"
