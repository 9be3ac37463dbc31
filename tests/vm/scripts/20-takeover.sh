#!/bin/bash
# What a start does with a ublk device that a dead daemon left: taken over, refused where what was
# asked does not fit it, deleted where it never served; and how signals and stops treat a device in
# use. Prints ALL GOOD.
#
#   tests/vm/boot --disks 4 --size 256M tests/vm/scripts/20-takeover.sh
#
# boot: --disks 4 --size 256M --limit 600
set -u
e=$EVENKEEL run=$EVENKEEL_RUN_DIR
read -ra disks <<<"$EVENKEEL_DISKS"
n=0
check() { n=$((n + 1)); echo "ok $n: $1"; }
die() { echo "FAILED: $*"; tail -n 20 "$run/a.log"; ls -l "$run" /dev/ublk*; exit 1; }
code() { local want=$1 got; shift; "$@"; got=$?; [ "$got" = "$want" ] || die "exit $got, not $want: $*"; check "exit $want: ${*##*/}"; }
pid() { cat "$run/a.pid"; }
kill9() { kill -9 "$(pid)"; while kill -0 "$(pid)" 2>/dev/null; do sleep .05; done; }

code 0 "$e" create a --level raid5 "${disks[@]}"
code 0 "$e" start "${disks[@]}" --ack durable
dev=/dev/ublkb0
[ "$(readlink -f /dev/evenkeel/a)" = $dev ] || die "no link"
[ "$(cat /sys/block/ublkb0/queue/write_cache)" = "write through" ] || die "durable has no volatile cache"
head -c 1M /dev/urandom >/tmp/data
dd if=/tmp/data of=$dev bs=64k oflag=direct status=none || die "write"
code 13 "$e" start "${disks[@]}"

kill9
code 2 "$e" start "${disks[@]}" --ack cached
code 1 "$e" start "${disks[@]}" --via nbd
code 2 "$e" start "${disks[@]}" --read-only
timeout 60 cmp -n 1048576 $dev /tmp/data & reader=$!
sleep 1
kill -0 $reader || die "a reader did not wait"
code 0 "$e" start "${disks[@]}"
wait $reader || die "the reader got something else"
check "a reader waited and got what was written"
[ "$(cat /sys/block/ublkb0/queue/write_cache)" = "write through" ] || die "ack changed"
"$e" status a --json | grep -q '"ack": *"durable"' || die "status says another ack"
check "the device kept its ack"

kill9
rm "$run/a.ublk"
code 2 "$e" start "${disks[@]}" --ack cached
code 0 "$e" start "${disks[@]}" --ack durable
[ "$(compgen -G "/dev/ublkb*")" = $dev ] || die "another device"
check "the device was found without its record"

exec 7<$dev
code 1 "$e" stop a
kill -TERM "$(pid)"; sleep 3
kill -0 "$(pid)" || die "a signal ended a daemon in use"
check "a daemon in use survives a signal"
exec 7<&-
cmp -n 1048576 $dev /tmp/data || die "data"
kill -TERM "$(pid)"
for _ in $(seq 100); do [ -e "$run/a.pid" ] || break; sleep .1; done
[ ! -e "$run/a.pid" ] && [ ! -e $dev ] && [ ! -e "$run/a.ublk" ] && [ ! -e /dev/evenkeel/a ] || die "not stopped"
check "an unused daemon ends by a signal and leaves nothing"

began=$(date +%s%3N)
code 0 "$e" start "${disks[@]}"
takes=$(($(date +%s%3N) - began))
exec 7<$dev
code 0 "$e" stop a --force
exec 7<&-
check "a forced stop goes through an open device"
code 0 "$e" start "${disks[@]}" --read-only
cmp -n 1048576 /dev/evenkeel/a /tmp/data || die "data"
dd if=/tmp/data of=/dev/evenkeel/a bs=64k oflag=direct status=none 2>/dev/null && die "written"
code 0 "$e" stop a
# A start that dies anywhere, up to the moment when it would have ended: the next one goes through, and
# one device is left.
echo "a start takes $takes ms"
for ms in 5 10 20 40 80 120 160 200 300 400 600 800 1000 1300 1600 2000 2500 3000 3500 4000 5000 6000; do
	if [ "$ms" -gt $((takes * 3 / 2)) ]; then break; fi
	"$e" start "${disks[@]}" >/dev/null 2>&1 &
	sleep "$(printf '%d.%03d' $((ms / 1000)) $((ms % 1000)))"
	pkill -9 -f "$e start" 2>/dev/null
	while pgrep -f "$e start" >/dev/null; do sleep .05; done
done
ls /dev/ublk*; cat "$run"/a.ublk
code 0 "$e" start "${disks[@]}"
[ "$(compgen -G "/dev/ublkb*" | wc -l)" = 1 ] || die "devices left behind"
[ "$(compgen -G "/sys/class/ublk-char/ublkc*" | wc -l)" = 1 ] || die "devices left behind"
cmp -n 1048576 /dev/evenkeel/a /tmp/data || die "data"
code 0 "$e" stop a
[ -z "$(compgen -G "/sys/class/ublk-char/ublkc*")" ] || die "devices left behind"
compgen -G "/dev/shm/evenkeel*" && die "rings left behind"
echo ALL GOOD
