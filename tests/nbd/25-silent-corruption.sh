#!/bin/bash
# Disks that lie, over NBD: bytes of the member files change behind the array's back. What is read is
# right, the files are as they were again, the counts are exact, and the member is named.
#
# - one to m blocks of a row, data and parity: every set of them for raid6 4+2, some for rs 4+3;
# - a stale block put back (a lost write), two blocks exchanged (a misdirected write);
# - one block too many: EIO for the wrong ones alone, until they are overwritten;
# - a whole member's slots filled with noise: found and mended by a scrub.
# shellcheck source=tests/nbd/array.sh
. "$(dirname "$0")/array.sh"
need jq nbdcopy python3

# What the python below asks of the command and of the array.
export EK work
cat >"$work/liars.py" <<'PYTHON'
import itertools, json, os, random, subprocess, sys
import nbd
B = 4096
name, k, m, seed, all_sets = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5] == "all"
n = k + m
r = random.Random(seed)
h = nbd.NBD()
h.connect_uri("nbd+unix:///?socket=%s/run/%s.nbd" % (os.environ["work"], name))

def ek(*args):
    return json.loads(subprocess.run([os.environ["EK"], *args, "--json"], check=True, capture_output=True).stdout)

def status():
    return ek("status", name)

def counts():
    return {x["index"]: (x["checksum_errors"], x["healed"]) for x in status()["members"]}

def put(place, data):
    fd = os.open(place["path"], os.O_WRONLY | os.O_DSYNC)
    os.pwrite(fd, data, place["byte"] // B * B)
    os.close(fd)

def get(place):
    fd = os.open(place["path"], os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    data = os.pread(fd, B, place["byte"] // B * B)
    os.close(fd)
    return data

def places(stripe, chunk_row):
    # The places of all columns of a row: each data block is asked for, the parity comes with it.
    out = []
    for c in range(k):
        at = stripe * k * chunk + c * chunk + chunk_row * B
        found = ek("locate", name, "--byte", str(at))
        out.append(found["data"])
        parity = found["parity"]
    return out + parity

def expect(what, got, wanted):
    if got != wanted:
        sys.exit("%s: %r, not %r" % (what, got, wanted))

s = status()
chunk, size = s["chunk_bytes"], s["size_bytes"]
stripes = 24
content = bytearray(r.randbytes(stripes * k * chunk))
for at in range(0, len(content), 1 << 20):
    part = bytes(content[at:at + (1 << 20)])
    h.pwrite(part, at)
h.flush()
subprocess.run([os.environ["EK"], "wait", name, "destage", "--timeout", "60"], check=True)

def read_row(stripe, chunk_row):
    for c in range(k):
        at = stripe * k * chunk + c * chunk + chunk_row * B
        yield c, at

wrong = dict((i, 0) for i in range(n))
healed = dict((i, 0) for i in range(n))

def read_right(stripe, chunk_row):
    for c, at in read_row(stripe, chunk_row):
        if bytes(h.pread(B, at)) != bytes(content[at:at + B]):
            sys.exit("column %d of row %d of stripe %d is not what was written" % (c, chunk_row, stripe))

def check_counts(what):
    now = counts()
    for i in range(n):
        expect("%s: member %d (checksum errors, healed)" % (what, i), now[i], (wrong[i], healed[i]))

def spoil(columns, stripe, chunk_row):
    p = places(stripe, chunk_row)
    before = [get(x) for x in p]
    for c in columns:
        put(p[c], r.randbytes(B))
        wrong[p[c]["member"]] += 1
        healed[p[c]["member"]] += 1
    return p, before

# 1. Every set of one to m columns: the data is read; parity alone is looked at by a read that needs it,
# which is one of a data block that is wrong, so a set of parity blocks alone waits for the scrub.
sets = [c for i in range(1, m + 1) for c in itertools.combinations(range(n), i)]
if not all_sets:
    sets = r.sample(sets, 12)
by_scrub, images = 0, []
for i, own in enumerate(sets):
    stripe, chunk_row = i // 16 % stripes, i % 16
    p, before = spoil(own, stripe, chunk_row)
    read_right(stripe, chunk_row)
    left = [c for c in own if get(p[c]) != before[c]]
    # What no read had a reason to look at: parity.
    if any(c < k for c in left):
        sys.exit("columns %r of %r were read and not written again" % (left, own))
    by_scrub += len(left)
    images += zip(p, before)
if by_scrub:
    subprocess.run([os.environ["EK"], "scrub", name], check=True)
    subprocess.run([os.environ["EK"], "wait", name, "scrub", "--timeout", "60"], check=True)
    expect("the scrub mended", (status()["scrub"]["mismatches"], status()["scrub"]["healed"]), (by_scrub, by_scrub))
for x, image in images:
    expect("member %d at %d" % (x["member"], x["byte"]), get(x) == image, True)
check_counts("%d sets of wrong blocks" % len(sets))
print("%d sets of wrong columns: given right, %d blocks written again, %d of them parity found by the scrub"
      % (len(sets), sum(wrong.values()), by_scrub))

# 2. A stale block, and two that were exchanged.
stripe, chunk_row = stripes - 1, 3
at = stripe * k * chunk + 2 * chunk + chunk_row * B
p = places(stripe, chunk_row)
old = get(p[2])
new = r.randbytes(B)
h.pwrite(new, at)
content[at:at + B] = new
h.flush()
subprocess.run([os.environ["EK"], "wait", name, "destage", "--timeout", "60"], check=True)
p = places(stripe, chunk_row)
expect("the new block lies there", get(p[2]), new)
put(p[2], old)
wrong[p[2]["member"]] += 1
healed[p[2]["member"]] += 1
read_right(stripe, chunk_row)
expect("the stale block is new again", get(p[2]), new)
check_counts("a stale block")
q = places(stripe, chunk_row + 1)
a, b = get(p[0]), get(q[0])
put(p[0], b)
put(q[0], a)
for x in (p[0], q[0]):
    wrong[x["member"]] += 1
    healed[x["member"]] += 1
read_right(stripe, chunk_row)
read_right(stripe, chunk_row + 1)
expect("exchanged blocks are back", (get(p[0]), get(q[0])), (a, b))
check_counts("two exchanged blocks")
print("a stale block and two that were exchanged: given right and written again")

# 3. One too many.
stripe, chunk_row = stripes - 2, 5
p = places(stripe, chunk_row)
own = list(range(m + 1))
for c in own:
    put(p[c], r.randbytes(B))
    wrong[p[c]["member"]] += 1
bad = [c for c in own if c < k]
for again in range(2):
    for c, at in read_row(stripe, chunk_row):
        try:
            data = h.pread(B, at)
            if c in bad:
                sys.exit("column %d was given, and cannot be known" % c)
            expect("column %d beside wrong ones" % c, bytes(data), bytes(content[at:at + B]))
        except nbd.Error as e:
            if c not in bad:
                sys.exit("column %d gave %s, and is right" % (c, e))
for at in range(0, len(content), 1 << 20):
    here = (stripe * k * chunk) // (1 << 20) * (1 << 20)
    if at != here:
        expect("the rest", bytes(h.pread(1 << 20, at)), bytes(content[at:at + (1 << 20)]))
check_counts("one block too many")
for c, at in read_row(stripe, chunk_row):
    if c in bad:
        new = r.randbytes(B)
        h.pwrite(new, at)
        content[at:at + B] = new
h.flush()
subprocess.run([os.environ["EK"], "wait", name, "destage", "--timeout", "60"], check=True)
read_right(stripe, chunk_row)
print("%d wrong in a row: EIO for them alone, twice, and whole again once overwritten" % (m + 1))

# 4. A whole member's slots.
victim = r.randrange(n)
path = [x["path"] for x in s["members"] if x["index"] == victim][0]
first = counts()
chunks_before = {}
fd = os.open(path, os.O_RDWR | os.O_DSYNC)
chunks = set()
for st in range(stripes):
    for x in places(st, 0):
        if x["member"] == victim:
            chunks.add(x["byte"] // B * B)
for at in chunks:
    chunks_before[at] = os.pread(fd, chunk, at)
    os.pwrite(fd, r.randbytes(chunk), at)
for at in range(0, len(content), 1 << 20):
    expect("a member full of noise", bytes(h.pread(1 << 20, at)), bytes(content[at:at + (1 << 20)]))
subprocess.run([os.environ["EK"], "scrub", name], check=True)
subprocess.run([os.environ["EK"], "wait", name, "scrub", "--timeout", "60"], check=True)
os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
for at in chunks:
    expect("the chunk at %d of the member" % at, os.pread(fd, chunk, at) == chunks_before[at], True)
now = counts()
blocks = len(chunks) * chunk // B
expect("a member full of noise", (now[victim][0] - first[victim][0], now[victim][1] - first[victim][1]), (blocks, blocks))
for i in range(n):
    if i != victim:
        expect("member %d" % i, now[i], first[i])
print("member %d full of noise: %d blocks given right and written again, no other is blamed" % (victim, blocks))
h.shutdown()
PYTHON

for shape in "raid6 4 2 all" "rs 4 3 some"; do
	read -r level k m sets <<<"$shape"
	make l "$level" "$k" "$m" 24M --log-size 1M
	start l
	PATH=/usr/bin:$PATH python3 "$work/liars.py" l "$k" "$m" 7 "$sets" >"$work/said" || { cat "$work/said"; die "$level"; }
	while read -r line; do step "$level $k+$m: $line"; done <"$work/said"
	grep -q "Array l: $work/disks/l\.[0-9]* gave wrong bytes at byte" "$work/run/l.log" || die "nobody was named"
	stop l
	rm -f "$work"/disks/l.*
done
step "done"
