#!/bin/bash
# What other people's clients make of the server: nbdinfo, nbdcopy, nbdsh (libnbd), qemu-img and
# qemu-io (qemu's own client). What is allocated is compared with what was written; extended headers
# are tried by a client of this script's own where the installed libnbd does not speak them.
# shellcheck source=tests/nbd/array.sh
. "$(dirname "$0")/array.sh"
need nbdinfo nbdcopy nbdsh qemu-io qemu-img jq python3

# A stripe is 4 x 16 KiB; odd ones of the first MiB are written, then some at other places.
make a raid6 4 2 48M --chunk 16K
start a
u=$(uri a)
size=$(status a .size_bytes)
stripe=65536

# map FILE : the extents that nbdinfo sees, as "offset length type" with neighbours of a kind joined.
map() {
	nbdinfo --map --json "$u" | jq -r '
		reduce .[] as $e ([]; if length > 0 and .[-1].type == $e.type
			then .[-1].length += $e.length else . + [$e] end)
		| .[] | "\(.offset) \(.length) \(.type)"' >"$1"
}

# expect_map WHERE STRIPE... : these stripes are allocated, ascending, and no others are.
expect_map() {
	local where=$1 at=0 s
	shift
	for s; do
		if ((s * stripe > at)); then echo "$at $((s * stripe - at)) 3"; fi
		echo "$((s * stripe)) $stripe 0"
		at=$(((s + 1) * stripe))
	done >"$work/wanted"
	if ((at < size)); then echo "$at $((size - at)) 3" >>"$work/wanted"; fi
	map "$work/map"
	diff "$work/wanted" "$work/map" >&2 || die "the map $where"
}

step "nothing is written: the map is one hole"
expect_map "of a new array"
[ "$(nbdinfo --map --totals --json "$u" | jq -c '[.[] | [.type, .size]]')" = "[[3,$size]]" ] || die "totals"

step "written stripes are on the map: dirty, in place, after a restart"
nbdsh -u "$u" -c - <<PYTHON
for s in range(1, 16, 2):
    h.pwrite(bytes([s]) * $stripe, s * $stripe)      # whole
h.pwrite(b"x", 20 * $stripe + 777)                   # a byte, dirty in the cache
h.pwrite(bytes(4096), 30 * $stripe)                  # zeros count as written
h.pwrite(b"last", $size - 4)
PYTHON
last=$((size / stripe - 1))
expect_map "with a dirty cache" 1 3 5 7 9 11 13 15 20 30 "$last"
kill9 a
start a
expect_map "after a kill" 1 3 5 7 9 11 13 15 20 30 "$last"
"$EK" wait a destage --timeout 60
stop a
start a
expect_map "after a stop" 1 3 5 7 9 11 13 15 20 30 "$last"
nbdsh -u "$u" -c "h.trim(4 * $stripe, 3 * $stripe); h.zero($stripe, 20 * $stripe); h.trim(4096, 9 * $stripe)"
expect_map "after a discard" 1 7 9 11 13 15 30 "$last"

step "qemu sees the same holes"
qemu-img map --output=json -f raw "$u" |
	jq -r 'reduce .[] as $e ([]; if length > 0 and .[-1].data == $e.data
		then .[-1].length += $e.length else . + [$e] end)
		| .[] | "\(.start) \(.length) \(if .data then 0 else 3 end)"' >"$work/map"
diff "$work/wanted" "$work/map" >&2 || die "qemu's map"

step "structured replies and block status, by libnbd"
nbdsh -c - <<PYTHON
import errno
h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
h.add_meta_context("x-nobody:knows")
h.connect_uri("$u")
assert h.get_structured_replies_negotiated() and h.can_df() and h.can_cache() and h.can_fast_zero()
assert h.can_meta_context(nbd.CONTEXT_BASE_ALLOCATION) and not h.can_meta_context("x-nobody:knows")
assert h.get_protocol() == "newstyle-fixed"
h.set_strict_mode(0)
S = $stripe

def chunks(count, at, flags=0):
    got = []
    def chunk(data, offset, status, error):
        got.append((offset, len(data), status))
    data = h.pread_structured(count, at, chunk, flags)
    got.sort()
    assert sum(c[1] for c in got) == count and got[0][0] == at, got
    return data, got

data, got = chunks(4 * S, 0)
assert got == [(0, S, nbd.READ_HOLE), (S, S, nbd.READ_DATA), (2 * S, 2 * S, nbd.READ_HOLE)], got
assert data == bytes(S) + b"\1" * S + bytes(2 * S)
data, got = chunks(4 * S, 0, nbd.CMD_FLAG_DF)
assert got == [(0, 4 * S, nbd.READ_DATA)], got
assert data == bytes(S) + b"\1" * S + bytes(2 * S)
data, got = chunks(999, 2 * S + 5, nbd.CMD_FLAG_DF)
assert (data, got) == (bytes(999), [(2 * S + 5, 999, nbd.READ_HOLE)])
data, got = chunks(3, 2 * S - 2)
assert data == b"\1\1\0" and [c[2] for c in got] == [nbd.READ_DATA, nbd.READ_HOLE]

def status(count, at, flags=0):
    got = []
    def extent(context, offset, entries, error):
        assert context == "base:allocation" and offset == at
        got.extend(zip(entries[::2], entries[1::2]))
    h.block_status(count, at, extent, flags)
    return got

assert status(2 * S, 0) == [(S, 3), (S, 0)]
assert status(2 * S, 1) == [(S - 1, 3), (S, 0), (1, 3)]
assert status(2 * S, 0, nbd.CMD_FLAG_REQ_ONE) == [(S, 3)]
assert status(1, S, nbd.CMD_FLAG_REQ_ONE) == [(1, 0)]
assert sum(e[0] for e in status($size, 0)) == $size

def refused(f, number):
    try:
        f()
    except nbd.Error as e:
        assert e.errno == errno.errorcode[number], e
    else:
        raise AssertionError("was not refused")

refused(lambda: h.pread((1 << 20) + 1, 0), errno.EINVAL)
refused(lambda: status(2, $size - 1), errno.EINVAL)
refused(lambda: status(0, 0), errno.EINVAL)
refused(lambda: h.pread(1, 0, nbd.CMD_FLAG_REQ_ONE), errno.EINVAL)
h.pwrite(b"fua!", 50 * S, nbd.CMD_FLAG_FUA)
assert status(S, 50 * S) == [(S, 0)]
h.zero(S, 50 * S, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_FUA)
assert status(S, 50 * S) == [(S, 3)]
# Without structured replies everything works as well, only plainer.
p = nbd.NBD()
p.set_request_structured_replies(False)
p.connect_uri("$u")
assert not p.get_structured_replies_negotiated() and not p.can_df()
assert p.pread(4 * S, 0) == bytes(S) + b"\1" * S + bytes(2 * S)
PYTHON

step "names: listed, chosen, unknown, asked for twice"
nbdsh -c - <<PYTHON
socket = "$work/run/a.nbd"
names = []
h.set_opt_mode(True)
h.connect_unix(socket)
h.opt_list(lambda name, description: names.append(name))
assert names == ["a"], names
h.set_export_name("no-such")
try:
    h.opt_go()
except nbd.Error as e:
    assert e.errno == "ENOENT", e
else:
    raise AssertionError("an unknown export")
contexts = []
h.set_export_name("a")
h.opt_list_meta_context(contexts.append)
assert contexts == ["base:allocation"], contexts
h.opt_info()
h.opt_go()
assert h.get_size() == $size
h.shutdown()
PYTHON

step "nbdcopy in and out, with and without holes"
python3 - "$work/sparse" "$size" <<'PYTHON'
import random, sys
r = random.Random(5)
size = int(sys.argv[2])
with open(sys.argv[1], "wb") as f:
    f.truncate(size)
    for i in range(60):
        at = r.randrange(0, size - 200000) // 512 * 512
        f.seek(at)
        f.write(r.randbytes(r.choice([512, 4096, 65536, 150000])))
PYTHON
nbdcopy --flush "$work/sparse" "$u"
same a "$work/sparse"
nbdcopy --allocated "$work/sparse" "$u"
same a "$work/sparse"
nbdcopy --connections=4 --requests=32 "$u" "$work/out"
cmp "$work/sparse" "$work/out" || die "nbdcopy with four connections"

step "qemu-img convert in and out, compare, map"
qemu-img convert -n -f raw -O raw "$work/sparse" "$u"
qemu-img compare -f raw -F raw "$work/sparse" "$u" >/dev/null || die "qemu-img compare"
qemu-img convert -f raw -O qcow2 "$u" "$work/out.qcow2"
qemu-img compare -f raw -F qcow2 "$u" "$work/out.qcow2" >/dev/null || die "convert to qcow2"
qemu-img convert -n -W -m 8 -f qcow2 -O raw "$work/out.qcow2" "$u"
same a "$work/sparse"

step "qemu-io and qemu-img bench"
qemu-io -f raw "$u" -c 'write -P 7 0 1M' -c 'write -z 4k 64k' -c 'read -P 0 4k 64k' \
	-c 'read -P 7 68k 900k' -c 'discard 0 1M' -c 'read -P 0 0 1M' -c 'write -f -P 9 513 7' \
	-c 'read -P 9 513 7' -c 'write -z -u 0 2M' -c 'read -P 0 0 2M' -c 'aio_write -P 3 0 128k' \
	-c 'aio_write -P 4 1M 128k' -c aio_flush -c 'read -P 3 0 128k' -c 'read -P 4 1M 128k' >"$work/qemu"
if grep -Ei 'error|fail|verif' "$work/qemu"; then die "qemu-io"; fi
qemu-img bench -f raw -w -c 2000 -d 64 -s 4k "$u" >/dev/null
qemu-img bench -f raw -w -c 150 -d 16 -s 1M "$u" >/dev/null
qemu-img bench -f raw -c 2000 -d 64 -s 64k "$u" >/dev/null

step "extended headers"
if nbdsh -c 'import sys; sys.exit(not hasattr(h, "get_extended_headers_negotiated"))'; then
	nbdsh -c - <<-PYTHON
		h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
		h.connect_uri("$u")
		assert h.get_extended_headers_negotiated()
		h.pwrite(b"x" * 4096, 5 * $stripe)
		assert h.pread(4096, 5 * $stripe) == b"x" * 4096
		got = []
		h.block_status_64($size, 0, lambda m, o, e, err: got.extend(e))
		assert sum(e[0] for e in got) == $size
	PYTHON
else
	step "skipped with libnbd: $(nbdsh --version | tail -n 1) does not know them; a client of our own follows"
fi
PYTHONDONTWRITEBYTECODE=1 python3 "$here/extended.py" "$work/run/a.nbd" "$stripe"
stop a

step "read-only: what is allocated is told there, too, and nothing is taken"
start a --read-only
nbdinfo --json "$u" | jq -e '.exports[0] | .is_read_only and (.can_zero | not) and (.can_trim | not)' >/dev/null ||
	die "read-only is not said"
nbdinfo --map "$u" >/dev/null
nbdsh -u "$u" -c - <<'PYTHON'
h.set_strict_mode(0)
for f in [lambda: h.pwrite(b"x", 0), lambda: h.zero(4096, 0), lambda: h.trim(4096, 0)]:
    try:
        f()
    except nbd.Error as e:
        assert e.errno == "EPERM", e
    else:
        raise AssertionError("was not refused")
h.flush()
h.cache(4096, 0)
h.pread(4096, 0)
PYTHON
stop a
step "done"
