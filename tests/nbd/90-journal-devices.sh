#!/bin/bash
# The log on journal devices, over NBD: kill -9, one of two lost, an old copy put back, all lost.
# shellcheck source=tests/nbd/array.sh
. "$(dirname "$0")/array.sh"
PATH=$PATH:/usr/sbin:/sbin
need nbdcopy nbdsh jq awk mkswap

head -c $((48 << 20)) /dev/urandom >"$work/want"
j0=$work/disks/log.0 j1=$work/disks/log.1
written() { awk '/^write_bytes/ {print $2}' "/proc/$(pid_of "$1")/io"; }

step "create: sizes, signatures, and what is said aloud"
truncate -s 64K "$j0"
expect 15 make jd raid5 2 1 96M --journal "$j0"
grep -q "smallest journal device" "$work/err" || die "what is too small is not said"
truncate -s 64M "$j0"
mkswap "$j0" >/dev/null 2>&1
expect 16 make jd raid5 2 1 96M --journal "$j0"
grep -q "$j0 holds swap" "$work/err" || die "the signature is not named"
rm -f "$j0"
[ -z "$(ls "$work/disks")" ] || die "a refused create left files"
expect 12 make jd raid5 2 1 96M --journal "$j0" --journal "$j0"
expect 0 make jd raid5 2 1 96M --log-size 32M --journal "$j0"
grep -q "the loss of the journal device loses what only the log held" "$work/out" || die "nothing is said of one"
rm -f "$work"/disks/*
expect 0 make jd raid5 2 1 96M --log-size 32M --journal "$j0" --journal "$j1"
if grep -q "only the log held" "$work/out"; then die "two are enough for raid5"; fi
expect 16 make jdb raid5 2 1 96M --journal "$j0"
rm -f "$work"/disks/jdb.*

step "48 MiB in whole stripes: bytes written to all disks"
start jd
before=$(written jd)
nbdcopy "$work/want" "$(uri jd)"
ratio=$(awk -v b="$before" -v a="$(written jd)" 'BEGIN {printf "%.3f", (a - b) / (48 * 1048576)}')
awk -v r="$ratio" 'BEGIN {exit !(r >= 1.5 && r <= 1.56)}' || die "$ratio bytes for a byte"
step "$ratio for a user byte (3/2 for the chunks, at most 0.06 for the log)"
[ "$(status jd '[.members[].role] | join(" ")')" = "data data data journal journal" ] || die "roles"
[ "$(status jd .can_lose)" = 1 ] || die "can_lose"

step "kill -9, start, read back; one of two lost with the next one"
odd_writes jd "$work/want" 1 60 100000
kill9 jd
start jd
same jd "$work/want"
cp "$j0" "$work/old"
odd_writes jd "$work/want" 2 60 100000
kill9 jd
mv "$j0" "$work/lost"
rest=("$work"/disks/jd.* "$j1")
start jd "${rest[@]}"
same jd "$work/want"
expect 1 "$EK" status jd --test
[ "$(status jd '[.members[] | select(.role == "journal") | .state] | join(" ")')" = "missing active" ] || die "states"
[ "$(status jd .can_lose)" = 0 ] || die "can_lose after a loss"
expect 1 "$EK" fail jd "$j1"
odd_writes jd "$work/want" 3 60 100000

step "the lost one comes back as it was, and as an older copy: left out"
kill9 jd
cp "$work/lost" "$j0"
start jd "$j0" "${rest[@]}"
same jd "$work/want"
odd_writes jd "$work/want" 4 60 100000
kill9 jd
cp "$work/old" "$j0"
start jd "${rest[@]}" "$j0"
same jd "$work/want"
odd_writes jd "$work/want" 5 60 100000
expect 0 "$EK" examine --json "$j1"
jq -e '.[0] | .member.role == "journal" and (.areas | map(.area)) == ["superblock a","superblock b","log","superblock c"]' \
	"$work/out" >/dev/null || die "examine"

step "all lost after a kill: refused; the old one instead: refused"
kill9 jd
expect 0 "$EK" log "$work"/disks/jd.* "$j1"
mv "$j1" "$work/last"
rm "$j0"
expect 14 "$EK" start --via nbd "$work"/disks/jd.*
expect 14 "$EK" start --via nbd --read-only "$work"/disks/jd.*
cp "$work/old" "$j0"
expect 14 "$EK" start --via nbd "$work"/disks/jd.* "$j0"

step "the last one is back: everything is there; a clean stop, all lost: nothing is"
mv "$work/last" "$j1"
start jd "$j1" "$work"/disks/jd.*
same jd "$work/want"
stop jd
rm "$j0" "$j1"
start jd "$work"/disks/jd.*
same jd "$work/want"
[ "$(status jd .can_lose)" = 1 ] || die "can_lose with the log at home"
odd_writes jd "$work/want" 6 60 100000
kill9 jd
start jd "$work"/disks/jd.*
same jd "$work/want"
stop jd
step "all identical"
