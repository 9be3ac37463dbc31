#!/bin/bash
# The ublk front end over the RAM stand-in (ram.rs): fio verify, discard, ext4, three kills under load
# with recovery, a forced stop of an open device, an ordinary stop. Prints ALL GOOD.
#
#   cargo build --release -p evenkeel-ublk-target --example ram
#   tests/vm/boot --binary target/release/examples/ram ublk-target/examples/ram.sh
set -u
ls -l /dev/ublk-control || modprobe ublk_drv
uname -r
ram=$EVENKEEL
run=/run/ek; mkdir -p $run
$ram $run /dev/shm/ram.img $((256<<20)) >/tmp/ram.log 2>&1 &
for _ in $(seq 100); do grep -q '^/dev' /tmp/ram.log && break; sleep .1; done
cat /tmp/ram.log
dev=$(grep '^/dev' /tmp/ram.log); b=${dev##*/}
grep . /sys/block/$b/queue/{logical_block_size,physical_block_size,minimum_io_size,optimal_io_size,discard_granularity,discard_max_bytes,write_zeroes_max_bytes,write_cache,fua,max_sectors_kb,max_hw_sectors_kb} /sys/block/$b/size
timeout 60 fio --name=v --filename=$dev --size=64m --rw=randwrite --bsrange=4k-1m --ioengine=libaio --iodepth=32 --direct=1 --verify=crc32c --do_verify=1 --verify_fatal=1 2>&1 | grep -E "err=|IOPS|verify" || exit 1
blkdiscard -o 0 -l $((1<<20)) $dev && cmp -n $((1<<20)) $dev /dev/zero || exit 2
mkfs.ext4 -q -F $dev && mkdir -p /mnt/t && mount -o discard $dev /mnt/t || exit 3
cp -r /usr/share/doc/bash* /mnt/t/ 2>/dev/null
timeout 100 fio --name=k --filename=/mnt/t/f --size=32m --rw=randwrite --bs=16k --ioengine=libaio --iodepth=16 --direct=1 --verify=crc32c --do_verify=1 --verify_fatal=1 --time_based --runtime=25 > /tmp/fio.log 2>&1 &
fio=$!
sleep 3
for round in 1 2 3; do
  pid=$(pidof "${ram##*/}"); echo pid $pid; cat /sys/block/$b/inflight; kill -9 $pid; sleep .5
  $ram $run /dev/shm/ram.img $((256<<20)) >/tmp/ram$round.log 2>&1 &
  for _ in $(seq 100); do grep -q '^/dev' /tmp/ram$round.log && break; sleep .1; done
  cat /tmp/ram$round.log; grep -q '^/dev' /tmp/ram$round.log || exit 4
  sleep 3
done
wait $fio; rc=$?; grep -E "err=|IOPS|verify" /tmp/fio.log; [ $rc = 0 ] || exit 5
grep ublk "/proc/$(pidof "${ram##*/}")/mountinfo" && exit 6
sync; umount /mnt/t; e2fsck -fn $dev || exit 7
kill -9 "$(pidof "${ram##*/}")"
$ram $run /dev/shm/ram.img $((256<<20)) stop-after 3 >/tmp/ram9.log 2>&1 &
p=$!; sleep 2; exec 7<$dev; timeout 20 tail --pid=$p -f /dev/null; echo "ended $?"; exec 7<&-; cat /tmp/ram9.log; grep -q "in use: true" /tmp/ram9.log || exit 8
ls /dev/ublk*; [ -e $dev ] && exit 9
$ram $run /dev/shm/ram.img $((256<<20)) stop-after 2 >/tmp/ram10.log 2>&1; cat /tmp/ram10.log; grep -q "in use: false" /tmp/ram10.log && grep -q deleted /tmp/ram10.log || exit 10
dmesg | tail -5
echo ALL GOOD
