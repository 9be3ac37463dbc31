#!/bin/bash
# Growing over NBD, under load: after every member was replaced by a larger one, and after files were made
# larger where they are. What is refused before; the size as old and new clients see it; old data, and the
# new space to its last byte, also after kill -9 right behind it, and whichever member is lost afterwards.
# shellcheck source=tests/nbd/array.sh
. "$(dirname "$0")/array.sh"
need nbdcopy nbdsh nbdinfo jq awk

d=$work/disks
size() { nbdinfo --size "$(uri "$1")"; }
# refused CODE NAME TEXT... : growing is, with these texts, and nothing has changed.
refused() {
	local code=$1 name=$2 text
	shift 2
	expect "$code" "$EK" grow "$name" --size
	for text; do grep -qF -- "$text" "$work/err" || die "\"$text\" is not said: $(cat "$work/err")"; done
	[ ! -s "$work/out" ] || die "an answer, though it was refused"
}
# grow NAME LEAST : it grows, by LEAST bytes at least: before= and after=.
grow() {
	before=$(size "$1")
	expect 0 "$EK" grow "$1" --size --json
	after=$(size "$1")
	jq -e --argjson before "$before" --argjson after "$after" --arg socket "$work/run/$1.nbd" \
		'.before_bytes == $before and .after_bytes == $after and .device_bytes == $after and .via == "nbd" and
		.device == $socket and (.note | test("told the new size"))' "$work/out" >/dev/null || die "answer: $(cat "$work/out")"
	((after >= before + $2)) || die "from $before to $after bytes only, not $2 more"
	[ "$(status "$1" .size_bytes)" = "$after" ] || die "the status says another size"
	grep -q "has grown from $before to $after bytes" "$work/run/$1.log" || die "the log does not say that it has grown"
	step "$1 has grown from $before to $after bytes"
}
# use_all NAME : everything is written from byte $before on, and by odd writes anywhere; then compared.
use_all() {
	truncate -s "$before" "$work/want"
	head -c $((after - before)) /dev/urandom >>"$work/want"
	nbdsh -u "$(uri "$1")" -c - <<-PYTHON
		with open("$work/want", "rb") as f:
		    for at in range($before, $after, 1 << 20):
		        f.seek(at)
		        h.pwrite(f.read(1 << 20), at)
		# Over where the old end was.
		data = bytes(range(251)) * 40
		h.pwrite(data, $before - 5000)
		with open("$work/want", "r+b") as f:
		    f.seek($before - 5000)
		    f.write(data)
	PYTHON
	odd_writes "$1" "$work/want" 7 60 400000
	same "$1" "$work/want"
}
new_want() { head -c $((32 << 20)) /dev/urandom >"$work/want"; }

step "what is refused"
expect 2 "$EK" grow m
expect 2 "$EK" grow m --size --add "$d/x"
refused 1 m "No array \"m\" runs here"
expect 0 make m raid5 3 1 64M
start m --read-only
refused 1 m "read-only"
stop m
start m
new_want
nbdcopy "$work/want" "$(uri m)"
first=$(size m)
refused 15 m "nothing to gain" "$d/m.0" "uses 67108864 of every one" "at least 67174400" "$d/m.3"
expect 0 "$EK" fail m "$d/m.2"
refused 1 m "$d/m.2 is failed"
expect 0 "$EK" add m "$d/m.2"
rebuilt m
[ "$(size m)" = "$first" ] || die "it has another size, though all was refused"
if grep -q "has grown" "$work/run/m.log"; then die "it says that it has grown"; fi

step "every member is replaced by a larger one; with the last one it grows, under load"
for i in 0 1 2 3; do
	refused 15 m "nothing to gain"
	truncate -s 112M "$d/n$i"
	expect 0 "$EK" replace m "$d/m.$i" "$d/n$i"
	rebuilt m
done
load m 100
# A client of before, one that comes afterwards, and what the first one may do.
nbdsh -u "$(uri m)" -c - <<-PYTHON
	import nbd, subprocess
	before = h.get_size()
	assert before == $first
	subprocess.run(["$EK", "grow", "m", "--size"], check=True, stdout=open("$work/grown", "w"))
	assert h.get_size() == before
	new = nbd.NBD()
	new.connect_uri("$(uri m)")
	after = new.get_size()
	assert after > before, after
	new.pwrite(b"tail", after - 4)
	# libnbd itself refuses what its client was not told of; the server does not.
	h.set_strict_mode(h.get_strict_mode() & ~nbd.STRICT_BOUNDS)
	assert h.pread(4, after - 4) == b"tail"
	h.pwrite(b"TAIL", after - 4)
	assert new.pread(4, after - 4) == b"TAIL"
	for client in h, new:
	    client.set_strict_mode(client.get_strict_mode() & ~nbd.STRICT_BOUNDS)
	    for call in lambda: client.pread(4, after - 3), lambda: client.pwrite(b"abcd", after - 3):
	        try:
	            call()
	        except nbd.Error as e:
	            assert e.errno in ("EINVAL", "ENOSPC"), e.errno
	        else:
	            raise SystemExit("a request beyond the end is taken")
	    assert client.pread(1, 0)
PYTHON
enough
grep -q "Those that are connected know the old one" "$work/grown" || die "what clients see is not said: $(cat "$work/grown")"
before=$first after=$(size m)
((after >= before + 3 * 40 << 20)) || die "from $before to $after bytes only"
kill9 m
start m
[ "$(size m)" = "$after" ] || die "after kill -9 it has another size"
same m "$work/want"
refused 15 m "nothing to gain" "$d/n0"
use_all m
every_loss m
[ "$(size m)" = "$after" ] || die "after all that it has another size"
stop m

step "files are made larger where they are, a spare among them; kill -9 right behind it"
expect 0 make s raid6 3 2 64M --spare "$d/spare"
start s
new_want
nbdcopy "$work/want" "$(uri s)"
load s 200
for i in 0 1 2 3 4; do truncate -s 96M "$d/s.$i"; done
refused 15 s "nothing to gain" "$d/spare, a spare" "evenkeel remove"
truncate -s 96M "$d/spare"
grow s $((3 * 24 << 20))
enough
kill9 s
start s
[ "$(size s)" = "$after" ] || die "after kill -9 it has another size"
use_all s
kill9 s
start s
same s "$work/want"
expect 0 "$EK" fail s "$d/s.1"
rebuilt s
[ "$(status s '.members[1].path')" = "$d/spare" ] || die "the spare has not taken the place"
every_loss s

step "and again, without a stop; the metadata and parity of all of it are right"
for path in $(paths s); do truncate -s 160M "$path"; done
grow s $((3 * 48 << 20))
use_all s
expect 0 "$EK" scrub s
expect 0 "$EK" wait s scrub
[ "$(status s '[.scrub.mismatches, .scrub.unrepairable] | join(" ")')" = "0 0" ] || die "$(status s .scrub)"
every_loss s
stop s

step "copies, without checksums and with the log on a journal device"
expect 0 make r raid1 1 1 64M --no-checksums --journal "$d/r.log"
start r
new_want
nbdcopy "$work/want" "$(uri r)"
truncate -s 128M "$d/r.0" "$d/r.1"
grow r $((48 << 20))
kill9 r
start r
use_all r
stop r
start r
[ "$(size r)" = "$after" ] || die "after a stop it has another size"
same r "$work/want"
stop r
step "all identical"
