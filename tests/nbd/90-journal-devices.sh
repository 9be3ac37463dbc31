#!/bin/bash
# The log on journal devices, over NBD: kill -9, one of two lost, an old copy put back, all lost.
# shellcheck source=tests/nbd/array.sh
. "$(dirname "$0")/array.sh"
PATH=$PATH:/usr/sbin:/sbin
need nbdcopy nbdsh jq awk mkswap

head -c $((48 << 20)) /dev/urandom >"$work/want"
j0=$work/disks/log.0 j1=$work/disks/log.1
written() { awk '/^write_bytes/ {print $2}' "/proc/$(pid_of "$1")/io"; }

# Small writes of odd places, none of them flushed; the file gets the same.
odd_writes() { # NAME SEED
	nbdsh -u "$(uri "$1")" -c - <<-PYTHON
		import random
		r = random.Random($2)
		with open("$work/want", "r+b") as f:
		    for i in range(60):
		        n = r.choice([1, 511, 4096, r.randrange(1, 100000)])
		        at = r.randrange(0, (48 << 20) - n)
		        data = r.randbytes(n)
		        h.pwrite(data, at)
		        f.seek(at)
		        f.write(data)
	PYTHON
}

step "create: sizes, signatures, and what is said aloud"
truncate -s 64K "$j0"
expect 15 make a raid5 2 1 96M --journal "$j0"
grep -q "smallest journal device" "$work/err" || die "what is too small is not said"
truncate -s 64M "$j0"
mkswap "$j0" >/dev/null 2>&1
expect 16 make a raid5 2 1 96M --journal "$j0"
grep -q "$j0 holds swap" "$work/err" || die "the signature is not named"
rm -f "$j0"
[ -z "$(ls "$work/disks")" ] || die "a refused create left files"
expect 12 make a raid5 2 1 96M --journal "$j0" --journal "$j0"
expect 0 make a raid5 2 1 96M --log-size 32M --journal "$j0"
grep -q "the loss of the journal device loses what only the log held" "$work/out" || die "nothing is said of one"
rm -f "$work"/disks/*
expect 0 make a raid5 2 1 96M --log-size 32M --journal "$j0" --journal "$j1"
if grep -q "only the log held" "$work/out"; then die "two are enough for raid5"; fi
expect 16 make b raid5 2 1 96M --journal "$j0"
rm -f "$work"/disks/b.*

step "48 MiB in whole stripes: bytes written to all disks"
start a
before=$(written a)
nbdcopy "$work/want" "$(uri a)"
ratio=$(awk -v b="$before" -v a="$(written a)" 'BEGIN {printf "%.3f", (a - b) / (48 * 1048576)}')
awk -v r="$ratio" 'BEGIN {exit !(r >= 1.5 && r <= 1.56)}' || die "$ratio bytes for a byte"
step "$ratio for a user byte (3/2 for the chunks, at most 0.06 for the log)"
[ "$(status a '[.members[].role] | join(" ")')" = "data data data journal journal" ] || die "roles"
[ "$(status a .can_lose)" = 1 ] || die "can_lose"

step "kill -9, start, read back; one of two lost with the next one"
odd_writes a 1
kill9 a
start a
same a "$work/want"
cp "$j0" "$work/old"
odd_writes a 2
kill9 a
mv "$j0" "$work/lost"
rest=("$work"/disks/a.* "$j1")
start a "${rest[@]}"
same a "$work/want"
expect 1 "$EK" status a --test
[ "$(status a '[.members[] | select(.role == "journal") | .state] | join(" ")')" = "missing active" ] || die "states"
[ "$(status a .can_lose)" = 0 ] || die "can_lose after a loss"
expect 1 "$EK" fail a "$j1"
odd_writes a 3

step "the lost one comes back as it was, and as an older copy: left out"
kill9 a
cp "$work/lost" "$j0"
start a "$j0" "${rest[@]}"
same a "$work/want"
odd_writes a 4
kill9 a
cp "$work/old" "$j0"
start a "${rest[@]}" "$j0"
same a "$work/want"
odd_writes a 5
expect 0 "$EK" examine --json "$j1"
jq -e '.[0] | .member.role == "journal" and (.areas | map(.area)) == ["superblock a","superblock b","log","superblock c"]' \
	"$work/out" >/dev/null || die "examine"

step "all lost after a kill: refused; the old one instead: refused"
kill9 a
expect 0 "$EK" log "$work"/disks/a.* "$j1"
mv "$j1" "$work/last"
rm "$j0"
expect 14 "$EK" start --via nbd "$work"/disks/a.*
expect 14 "$EK" start --via nbd --read-only "$work"/disks/a.*
cp "$work/old" "$j0"
expect 14 "$EK" start --via nbd "$work"/disks/a.* "$j0"

step "the last one is back: everything is there; a clean stop, all lost: nothing is"
mv "$work/last" "$j1"
start a "$j1" "$work"/disks/a.*
same a "$work/want"
stop a
rm "$j0" "$j1"
start a "$work"/disks/a.*
same a "$work/want"
[ "$(status a .can_lose)" = 1 ] || die "can_lose with the log at home"
odd_writes a 6
kill9 a
start a "$work"/disks/a.*
same a "$work/want"
stop a
step "all identical"
