#!/bin/bash
# What a start refuses, and that it changes nothing then, with real processes and files: a hundred
# starts at once, other mount namespaces, links and loop devices to the same disk, clones, split
# histories, damaged superblocks and logs, rings that are gone, read-only starts. What the
# simulator shows more thoroughly is in tests/refusals.rs and tests/log_damage.rs.
# shellcheck source=tests/nbd/array.sh
. "$(dirname "$0")/array.sh"
PATH=$PATH:/usr/sbin:/sbin
need nbdcopy nbdsh jq python3 unshare

sums() { sha256sum "$work"/disks/* | sort; }
said() { grep -q "$1" "$work/err" || { cat "$work/err" >&2; die "\"$1\" is not said"; }; }

# refused CODE WORDS COMMAND... : with this exit code, saying so, and no disk is changed.
refused() {
	local code=$1 words=$2 before
	shift 2
	before=$(sums)
	expect "$code" "$@"
	said "$words"
	[ "$before" = "$(sums)" ] || die "a disk was changed by: $*"
}

fill() { nbdcopy "$1" "$(uri "$2")"; }
dirty() { # NAME : some small writes that stay in the log; $work/data gets the same
	nbdsh -u "$(uri "$1")" -c - <<-PYTHON
		with open("$work/data", "r+b") as f:
		    for i in range(20):
		        data = bytes([i + 1]) * 4096
		        h.pwrite(data, i * 70000 // 4096 * 4096)
		        f.seek(i * 70000 // 4096 * 4096)
		        f.write(data)
	PYTHON
}

head -c $((6 << 20)) /dev/urandom >"$work/data"
make a raid6 4 2 12M --log-size 1M --cache 1M
mapfile -t disks < <(disks a 6)

step "a hundred starts at once: one serves"
for i in {1..100}; do
	(
		code=0
		"$EK" start "${disks[@]}" --via nbd >"$work/start.$i" 2>&1 || code=$?
		echo "$code" >"$work/code.$i"
	) &
done
wait
[ "$(cat "$work"/code.* | sort -n | uniq -c | awk '{print $1 "x" $2}' | paste -sd' ')" = "1x0 99x13" ] ||
	die "exit codes: $(cat "$work"/code.* | sort -n | uniq -c | paste -sd' ')"
rm "$work"/code.* "$work"/start.*
fill "$work/data" a
dirty a
same a "$work/data"

step "other run directories, orders and mount namespaces, all at once: held"
mkdir "$work/links"
for i in {0..5}; do ln -s "${disks[i]}" "$work/links/$i"; done
# shellcheck disable=SC2016 # for the shell in the namespace
namespace='mount --bind "$1" "$2" && shift 2 && exec "$@"'
start_elsewhere() { EVENKEEL_RUN_DIR=$work/other.$1 "$EK" start --via nbd "${@:2}"; }
mapfile -t shuffled < <(shuf -e "${disks[@]}")
waiting=()
(expect 13 start_elsewhere 1 "${disks[@]}") & waiting+=($!)
(work=$work/p2; mkdir "$work"; expect 13 start_elsewhere 2 "${shuffled[@]}") & waiting+=($!)
(work=$work/p3; mkdir "$work"; expect 13 start_elsewhere 3 "$(dirname "$work")"/links/*) & waiting+=($!)
if unshare -m true 2>/dev/null; then
	mkdir "$work/bound"
	(
		work=$work/p4
		mkdir "$work"
		bound=$(dirname "$work")/bound
		expect 13 env EVENKEEL_RUN_DIR="$work/run" unshare -m bash -c "$namespace" - \
			"$(dirname "$work")/disks" "$bound" "$EK" start --via nbd "$bound"/a.{0..5}
	) & waiting+=($!)
else
	step "skipped: no mount namespace of its own can be had here"
fi
loops=()
cleanup_loops() { local l; for l in "${loops[@]}"; do losetup -d "$l"; done; }
trap 'code=$?; cleanup_loops; (exit $code); take_down' EXIT
for i in {0..5}; do
	loop=$(losetup --show -f "${disks[i]}" 2>/dev/null) || break
	loops+=("$loop")
done
if [ ${#loops[@]} = 6 ]; then
	(work=$work/p5; mkdir "$work"; expect 13 start_elsewhere 5 "${loops[@]}") & waiting+=($!)
else
	step "skipped: no loop devices can be had here"
fi
for job in "${waiting[@]}"; do wait "$job" || die "a start elsewhere was not refused"; done
same a "$work/data"
expect 0 "$EK" status a --test

step "read-only: not a byte is written, to disks or ring, with a log that is not empty"
kill9 a
shm=/dev/shm/evenkeel-$(cat "$work/run/identity")
before=$(sums; sha256sum "$shm"/*)
start a --read-only
same a "$work/data"
[ "$(status a .read_only)" = true ] || die "not read-only"
stop a
[ "$before" = "$(sums; sha256sum "$shm"/*)" ] || die "something was written"
for lost in 1 2; do
	before=$(sums; sha256sum "$shm"/*)
	start a --read-only "${disks[@]:lost}"
	same a "$work/data"
	stop a
	[ "$before" = "$(sums; sha256sum "$shm"/*)" ] || die "something was written without $lost disks"
done

step "after kill -9: the next start succeeds at once"
for i in {1..5}; do
	start a "${disks[@]}"
	dirty a
	kill -9 "$(pid_of a)"
done
start a "${disks[@]}"
same a "$work/data"
[ "$(find "$shm" -name 'ring-*' | wc -l)" = 1 ] || die "rings are left: $(ls "$shm")"
kill9 a

step "the same disk by two paths, a clone, another array of the same name"
ln "${disks[0]}" "$work/hard"
refused 12 "are the same disk" "$EK" start --via nbd "${disks[@]}" "$work/hard"
refused 12 "are the same disk" "$EK" start --via nbd "${disks[@]}" "$work/links/3"
if [ ${#loops[@]} = 6 ]; then
	refused 12 "have bytes in common" "$EK" start --via nbd "${disks[@]}" "${loops[2]}"
fi
if unshare -m true 2>/dev/null; then
	refused 12 "are the same disk" unshare -m bash -c "$namespace" - "$work/disks" "$work/bound" \
		"$EK" start --via nbd "${disks[@]}" "$work/bound/a.4"
fi
cp "${disks[1]}" "$work/clone"
refused 12 "$work/clone" "$EK" start --via nbd "${disks[@]}" "$work/clone"
refused 12 "are the same member" "$EK" start --via nbd "${disks[@]:0:5}" "$work/clone"
mkdir "$work/twin"
"$EK" create a --level raid6 --data 4 --parity 2 --file-size 12M --log-size 1M "$work"/twin/{0..5}
refused 12 "belongs to another array" "$EK" start --via nbd "${disks[@]:0:5}" "$work/twin/5"
printf '%s\n' "$work"/twin/* >"$work/conf"
EVENKEEL_CONF=$work/conf refused 12 "several arrays with the name" "$EK" start a --via nbd
rm -r "$work/twin" "$work/hard" "$work/clone"

step "too few; features; another machine"
refused 10 "needs 4 current ones" "$EK" start --via nbd "${disks[@]:0:3}"
mkdir "$work/kept"
cp --sparse=always "$work"/disks/a.* "$work/kept"
patch 80 0001000000000000 "${disks[@]}"
refused 17 "does not know" "$EK" start --via nbd "${disks[@]}"
cp --sparse=always "$work"/kept/a.* "$work/disks"
patch 72 0001000000000000 "${disks[@]}"
refused 17 "read-only" "$EK" start --via nbd "${disks[@]}"
start a --read-only "${disks[@]}"
same a "$work/data"
stop a
cp --sparse=always "$work"/kept/a.* "$work/disks"
if [ -s /etc/machine-id ]; then
	patch 256 11111111111111111111111111111111 "${disks[@]}"
	patch 496 22222222222222222222222222222222 "${disks[@]}"
	refused 13 "another machine" "$EK" start --via nbd "${disks[@]}"
	cp --sparse=always "$work"/kept/a.* "$work/disks"
else
	step "skipped: this machine has no /etc/machine-id"
fi

step "the ring is gone: refused, and given up by force"
mv "$shm" "$shm.away"
refused 14 "does not exist any more" "$EK" start --via nbd "${disks[@]}"
mv "$shm.away" "$shm"
start a "${disks[@]}"
same a "$work/data"
stop a

step "clean, and the log overwritten: nothing is lost. Not clean: refused, and given up by force"
read -r log_at log_bytes < <("$EK" examine --json "${disks[0]}" |
	jq -r '.[0].areas[] | select(.area == "log") | "\(.offset) \(.bytes)"')
overwrite_log() {
	local disk
	for disk; do
		dd if=/dev/zero of="$disk" bs=4096 seek=$((log_at / 4096)) count=$((log_bytes / 4096)) \
			conv=notrunc status=none
	done
}
overwrite_log "${disks[@]}"
expect 0 "$EK" start --via nbd "${disks[@]}"
said "nothing is lost"
same a "$work/data"
kill9 a
overwrite_log "${disks[@]}"
refused 14 "With --force the start goes on" "$EK" start --via nbd "${disks[@]}"
expect 0 "$EK" start --via nbd --force "${disks[@]}"
said "Given up by force"
same a "$work/data"
stop a

step "superblocks of a disk gone, a disk cut: left out with a warning; a stale one, too"
for at in 4096 65536 $(((12 << 20) - 16384)); do
	dd if=/dev/zero of="${disks[1]}" bs=4096 seek=$((at / 4096)) count=4 conv=notrunc status=none
done
truncate -s 10M "${disks[2]}"
before=$(sha256sum "${disks[1]}" "${disks[2]}")
expect 0 "$EK" start --via nbd "${disks[@]}"
said "${disks[1]} is no member of an array: it bears no superblock"
said "${disks[2]} has 10485760 bytes"
same a "$work/data"
[ "$(status a .can_lose)" = 0 ] || die "can_lose"
stop a
[ "$before" = "$(sha256sum "${disks[1]}" "${disks[2]}")" ] || die "a disk that was left out was written"
cp --sparse=always "$work/kept/a.1" "$work/disks"
expect 0 "$EK" start --via nbd "${disks[@]}"
said "${disks[1]} is of epoch"
stop a
refused 11 "stale or failed" "$EK" start --via nbd "${disks[@]:0:5}"

step "split histories"
make s rs 2 2 12M --log-size 1M
mapfile -t split < <(disks s 4)
refused 10 "accept-missing" "$EK" start --via nbd "${split[@]:0:2}"
expect 0 "$EK" start --via nbd --accept-missing "${split[@]:0:2}"
said "From now on it is given up"
EVENKEEL_RUN_DIR=$work/other expect 0 "$EK" start --via nbd --accept-missing "${split[@]:2:2}"
stop s
EVENKEEL_RUN_DIR=$work/other stop s
for flag in --read-only --force --accept-missing; do
	refused 11 "split histories" "$EK" start --via nbd $flag "${split[@]}"
done
step "too few open files: refused, and no disk is taken for lost"
make f raid6 4 2 12M --log-size 1M
mapfile -t few < <(disks f 6)
started=0 refused=0
for ((files = 6; files < 40; files++)); do
	if (ulimit -n "$files" && "$EK" start --via nbd "${few[@]}") >"$work/out" 2>"$work/err"; then
		started=$((started + 1))
		[ "$(status f .state)" = healthy ] || die "with $files files it started without a disk"
		stop f
	else
		refused=$((refused + 1))
	fi
done
[ "$started" -gt 3 ] && [ "$refused" -gt 3 ] || die "$started started, $refused did not"
step "done"
