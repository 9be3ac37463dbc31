#!/bin/bash
# The command, second part: what create checks and says, where locate finds a byte, what destroy
# wipes, what status shows; by exit code, text and the bytes on the disks.
# shellcheck source=tests/nbd/array.sh
. "$(dirname "$0")/array.sh"
PATH=$PATH:/usr/sbin:/sbin
need jq mkfs.ext4 mkswap blkid nbdcopy qemu-io python3
cd "$work/disks"

# said TEXT... : the last command said all of this, on either output.
said() {
	local text
	for text; do
		grep -qF -- "$text" "$work/out" "$work/err" || {
			cat "$work/out" "$work/err" >&2
			die "it did not say: $text"
		}
	done
}
# calm FILE... : from now on, untouched tells whether anything is written to them, even the same bytes.
calm() { touch -d @1 "$@"; }
untouched() { ! stat -c %Y "$@" | grep -qvx 1; }
# field JSON-FILTER : of the last command's output.
field() { jq -r "$1" "$work/out"; }

step "help"
expect 0 "$EK" --help
for verb in create start stop status fail wait examine log locate destroy; do
	"$EK" --help | grep -q "^  $verb " || die "--help does not name $verb"
	expect 0 "$EK" "$verb" --help
done
for code in 0 1 2 10 11 12 13 14 15 16 17 18; do
	"$EK" --help | grep -qE "(^| ) *$code [a-z]" || die "--help does not explain exit code $code"
done
expect 2 "$EK" locate x
expect 2 "$EK" destroy

step "a dry run says everything and writes nothing"
truncate -s 24M a b
truncate -s 60M c
calm a b c .
expect 0 env EVENKEEL_RUN_DIR="$work/nowhere" "$EK" create x --level raid5 --dry-run a b c
said 'Would make "x": raid5, 2 data + 1 parity on 3 disks' 'any 1 of the 3 disks' \
	'stripes of 128 KiB' 'stride=16,stripe-width=32' 'su=64k,sw=2' '36 MiB of c stay unused, since a'
expect 0 env EVENKEEL_RUN_DIR="$work/nowhere" "$EK" create x --level raid6 --dry-run --file-size 24M a b c d e f
said 'raid6, 4 data + 2 parity on 6 disks' 'any 2 of the 6 disks' 'stripe-width=64'
expect 0 env EVENKEEL_RUN_DIR="$work/nowhere" "$EK" create x --level rs --parity 3 --dry-run --file-size 24M a b c d e f g
said 'rs, 4 data + 3 parity' 'any 3 of the 7 disks'
expect 0 env EVENKEEL_RUN_DIR="$work/nowhere" "$EK" create x --level raid1 --dry-run a b
said 'raid1, 1 data + 1 parity'
expect 2 "$EK" create x --level rs --dry-run --file-size 24M a b c d e f g
said 'For example --parity 2: 5 data'
untouched a b c . && [ ! -e "$work/nowhere" ] && [ ! -e d ] ||
	die "a dry run wrote something"

step "too small: it says how much is needed, and that is true"
for shape in "raid5 4K 3" "raid5 64K 3" "raid6 64K 6" "rs 16K 7" "raid5 1M 3"; do
	read -r level chunk n <<<"$shape"
	mapfile -t new < <(disks "small" "$n")
	args=(--level "$level" --chunk "$chunk" --dry-run "${new[@]}")
	if [ "$level" = rs ]; then args+=(--parity 3); fi
	expect 15 "$EK" create x --file-size 200K "${args[@]}"
	said "${new[0]} is too small" 'Nothing was written'
	least=$(grep -o 'at least [0-9]*' "$work/err" | cut -d' ' -f3)
	expect 0 "$EK" create x --file-size "$least" "${args[@]}"
	expect 15 "$EK" create x --file-size $((least - 65536)) "${args[@]}"
done

step "what is on a disk is named, kept, and overwritten only by force"
rm -f c
truncate -s 24M c
occupied() { # WHAT: on c now
	calm a b c
	expect 16 "$EK" create x --level raid5 a b c
	said "c holds $1" 'Nothing was changed'
	expect 16 "$EK" create x --level raid5 --dry-run a b c
	expect 0 "$EK" create x --level raid5 --dry-run --force a b c
	said "Would overwrite $1"
	untouched a b c || die "something was written over $1"
	rm c
	truncate -s 24M c
}
# A blkid that cannot say: the command's own table stands in.
mkdir "$work/bin"
printf '#!/bin/sh\nexit 4\n' >"$work/bin/blkid"
chmod +x "$work/bin/blkid"
mkfs.ext4 -q -L precious c
occupied 'ext4 "precious"'
mkfs.ext4 -q c
PATH=$work/bin:$PATH occupied 'ext2, ext3 or ext4'
mkswap -q c
occupied swap
mkswap -q c
PATH=$work/bin:$PATH occupied swap
printf 'LUKS\272\276\000\001' | dd of=c conv=notrunc status=none
occupied 'an encrypted volume'
printf '\000\002\003\000\203\020\021\022\000\010\000\000\000\020\000\000' |
	dd of=c bs=1 seek=446 conv=notrunc status=none
printf '\125\252' | dd of=c bs=1 seek=510 conv=notrunc status=none
occupied 'a partition table (dos)'
for magic in "0 XFSB xfs" "65600 _BHRfS_M btrfs" "32769 CD001 a CD or DVD image" "536 LVM2\040001 an LVM volume" \
	"0 \374\116\053\251 a member of an md array" "4096 \374\116\053\251 a member of an md array" \
	"135168 \014\261\272\000\000\000\000\000 a member of a ZFS pool" "512 EFI\040PART a partition table (gpt)"; do
	read -r at bytes what <<<"$magic"
	printf "$bytes" | dd of=c bs=1 seek="$at" conv=notrunc status=none
	PATH=$work/bin:$PATH occupied "$what"
done
mkfs.ext4 -q -L precious c
expect 0 "$EK" create x --level raid5 --force a b c
said 'Overwriting ext4 "precious" on c'
calm a b c
expect 16 "$EK" create y --level raid5 a b c
said 'a member of the array "x"'
untouched a b c || die "a refused create wrote something"

step "one disk by two paths, and disks that are in use"
ln a hard
ln -s a soft
mkdir sub
ln -s "$work/disks/sub" way
ln -s nowhere dangling
calm a b c
for second in hard soft ./a "$work/disks/a" sub/../a; do
	expect 12 "$EK" create x --level raid5 --force a b "$second"
	said 'Nothing was changed'
done
expect 12 "$EK" create x --level raid5 --file-size 64M a sub/new way/new
expect 1 "$EK" create x --level raid5 --file-size 64M b c dangling
[ -z "$(ls sub)" ] || die "a refused create made files"
untouched a b c || die "a refused create wrote something"
if loop=$(losetup -f --show "$work/disks/a" 2>/dev/null); then
	# The device is taken down even if a check fails.
	trap 'umount "$work/mnt" 2>/dev/null; losetup -d "$loop"; take_down' EXIT
	expect 12 "$EK" create x --level raid5 --force a b "$loop"
	expect 12 "$EK" create x --level raid5 --force "$loop" b hard
	expect 13 "$EK" create x --level raid5 --force a b c
	said "$loop" 'a is in use'
	expect 13 "$EK" destroy a
	# Two halves of one file are two disks; what overlaps is one.
	first=$(losetup -f --show --sizelimit 12M "$work/disks/b")
	second=$(losetup -f --show -o 12M "$work/disks/b")
	third=$(losetup -f --show -o 11M --sizelimit 2M "$work/disks/b")
	expect 0 "$EK" create x --level raid1 --force --dry-run "$first" "$second"
	said 'parts of one disk'
	expect 12 "$EK" create x --level raid1 --force --dry-run "$first" "$third"
	losetup -d "$first" "$second" "$third"
	mkfs.ext4 -q -F "$loop"
	mkdir "$work/mnt"
	if mount "$loop" "$work/mnt" 2>/dev/null; then
		expect 13 "$EK" create x --level raid5 --force "$loop" b c
		said "mounted at $work/mnt"
		umount "$work/mnt"
	else
		echo "skipped: nothing can be mounted here"
	fi
	losetup -d "$loop"
	trap take_down EXIT
	expect 0 "$EK" create x --level raid5 --force a b c
else
	echo "skipped: no loop device is to be had here"
fi
expect 0 "$EK" start x --via nbd
expect 13 "$EK" create x --level raid5 --file-size 64M d e f
said 'runs here'
expect 13 "$EK" create y --level raid5 --force --dry-run a b c
said 'is in use'
expect 13 "$EK" destroy a b c
expect 13 "$EK" destroy --dry-run a b c
expect 13 "$EK" locate a b c --byte 0
said 'evenkeel) holds it' 'by its name'
[ ! -e d ] || die "a refused create made a file"
stop x

step "locate: the bytes are where it says"
# Whole stripes and parts of them, some never written; then every place is looked up.
cat >"$work/check.py" <<'PY'
import functools, json, operator, subprocess, sys
ek, level, data, content, *disks = sys.argv[1:]
k, content, seen = int(data), open(content, "rb").read(), 0
def locate(byte):
    out = subprocess.run([ek, "locate", "--json", "--byte", str(byte), *disks], capture_output=True, check=True)
    return json.loads(out.stdout)
def read(b, n):
    with open(b["path"], "rb") as f:
        f.seek(b["byte"])
        return f.read(n)
chunk = json.loads(subprocess.run([ek, "examine", "--json", disks[0]], capture_output=True).stdout)[0]["chunk_bytes"]
for byte in (0, 1, 4097, chunk, chunk * k - 1, chunk * k + 4096, 3 * chunk * k + chunk + 8191, len(content) - 1):
    l = locate(byte)
    n = min(4096 - byte % 4096, len(content) - byte)
    assert l["byte"] == byte and not l["dirty"] and not l["row_unfinished"], l
    assert l["stripe"] == byte // (chunk * k), l
    if not l["mapped"]:
        assert l["slot"] is None and l["data"] is None and not l["parity"], l
        assert not any(content[byte:byte + n]), l
        continue
    seen += 1
    assert read(l["data"], n) == content[byte:byte + n], l
    if level == "raid5":
        # The row by hand: the same bytes of all data columns, and their XOR.
        start = byte - byte % (chunk * k) + byte % chunk
        row = [locate(start + c * chunk) for c in range(k)]
        assert len({r["data"]["path"] for r in row} | {l["parity"][0]["path"]}) == k + 1
        want = bytes(functools.reduce(operator.xor, c) for c in zip(*(read(r["data"], n) for r in row)))
        assert read(l["parity"][0], n) == want and row[0]["parity"] == [
            dict(l["parity"][0], byte=row[0]["parity"][0]["byte"])], l
assert seen >= 4, seen
PY
head -c 4M /dev/urandom >"$work/content"
for shape in "raid5 2 1 64K" "raid5 3 1 4K" "raid6 4 2 16K" "rs 3 3 64K"; do
	read -r level k m chunk <<<"$shape"
	name=l$level$k
	make "$name" "$level" "$k" "$m" 48M --chunk "$chunk" >/dev/null
	start "$name"
	nbdcopy "$work/content" "$(uri "$name")"
	# A few parts over it, so that rows are destaged in place, too.
	qemu-io -f raw -c 'write -P 17 4096 4096' -c 'write -P 18 200000 9000' "$(uri "$name")" >/dev/null
	nbdcopy "$(uri "$name")" "$work/all"
	head -c 6M "$work/all" >"$work/some"
	# shellcheck disable=SC2046 # paths without spaces
	running=$("$EK" locate "$name" --byte 4097 --json | jq -c '[.stripe, .block, .row]')
	stop "$name"
	# shellcheck disable=SC2046
	python3 "$work/check.py" "$EK" "$level" "$k" "$work/some" $(disks "$name" $((k + m))) ||
		die "$shape: locate is wrong"
	[ "$running" = "$("$EK" locate "$name" --byte 4097 --json | jq -c '[.stripe, .block, .row]')" ] ||
		die "running and stopped do not agree"
done
# With dd, as a person would; and with a disk missing.
expect 0 "$EK" locate lraid52 --byte 4096 --json
dd if="$(field .data.path)" bs=4096 skip=$(($(field .data.byte) / 4096)) count=1 status=none |
	cmp - <(head -c 4096 /dev/zero | tr '\0' '\021') || die "dd reads something else"
gone=$(field .data.path)
mapfile -t left < <(disks lraid52 3 | grep -vx "$gone")
expect 0 "$EK" locate "${left[@]}" --byte 4096 --json
[ "$(field '.data.path + .data.state')" = missing ] || die "a missing disk is not shown as such"
expect 0 "$EK" locate "${left[@]}" --byte 4096
said '(missing)' 'parity  member'
size=$("$EK" examine --json "$gone" | jq '.[0].size_bytes')
expect 0 "$EK" locate lraid52 --byte $((size - 1))
expect 2 "$EK" locate lraid52 --byte "$size"
expect 10 "$EK" locate "${left[0]}" --byte 0
expect 10 "$EK" locate nosuch --byte 0
expect 12 "$EK" locate "$EK" --byte 0
expect 12 "$EK" locate "${left[0]}" "${left[0]}" --byte 0

step "locate: what is still in the log is said to be dirty"
# A destage may come between the write and the kill; then once more, elsewhere.
for ((try = 1; try <= 20; try++)); do
	at=$((1048576 + try * 131072))
	start lraid52
	qemu-io -f raw -c "write -P 99 $at 4096" "$(uri lraid52)" >/dev/null
	kill9 lraid52
	disks lraid52 3 | xargs touch -d @1
	expect 0 "$EK" locate lraid52 --byte "$at" --json
	# shellcheck disable=SC2046
	untouched $(disks lraid52 3) || die "locate wrote something"
	[ "$(field .dirty)" = true ] && break
done
[ "$try" -le 20 ] || die "nothing was ever dirty"
place() { dd if="$(field .data.path)" bs=4096 skip=$(($(field .data.byte) / 4096)) count=1 status=none; }
place | cmp -s - <(tail -c +$((at + 1)) "$work/content" | head -c 4096) ||
	[ "$(field .row_unfinished)" = true ] || die "a dirty block's place does not hold the old content"
# shellcheck disable=SC2046
expect 0 "$EK" start --read-only --via nbd $(disks lraid52 3)
expect 0 "$EK" locate lraid52 --byte "$at"
said 'still in the log or the cache'
stop lraid52
start lraid52
expect 0 "$EK" wait lraid52 destage
expect 0 "$EK" locate lraid52 --byte "$at" --json
[ "$(field .dirty)" = false ] || die "dirty after a destage"
stop lraid52
expect 0 "$EK" locate lraid52 --byte "$at" --json
place | cmp - <(head -c 4096 /dev/zero | tr '\0' '\143') || die "the new content is not in its place"

step "status: codes and watching"
expect 4 "$EK" status nosuch --test
start lraid52
expect 0 "$EK" status lraid52 --test
for json in '' --json; do
	if [ -n "$json" ]; then start lraid52; fi
	# shellcheck disable=SC2086 # an option or nothing
	"$EK" status lraid52 --watch $json >"$work/watched" 2>"$work/watch.err" &
	watcher=$!
	until [ -s "$work/watched" ]; do
		kill -0 "$watcher" 2>/dev/null || die "status --watch ended"
		sleep 0.01
	done
	stop lraid52
	wait "$watcher" || die "status --watch ended with $?"
	grep -q 'has stopped' "$work/watch.err" || die "status --watch does not say why it ended"
	if [ -n "$json" ]; then
		jq -e '.state == "healthy"' "$work/watched" >/dev/null || die "no line of JSON"
	else
		grep -q '^lraid52: healthy' "$work/watched" || die "no table"
		if grep -q "$(printf '\033')" "$work/watched"; then die "escapes in a file"; fi
	fi
done
expect 1 "$EK" status lraid52 --watch
# A daemon's answer decides; one that does not answer counts as failed.
answer() { # LINE: what a daemon named "fake" answers, once
	rm -f "$work/run/fake.sock"
	python3 - "$work/run/fake.sock" "$1" <<'PY' &
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1] + ".new")
s.listen(1)
import os
os.rename(sys.argv[1] + ".new", sys.argv[1])
c, _ = s.accept()
c.recv(65536)
c.sendall(sys.argv[2].encode())
PY
	until [ -e "$work/run/fake.sock" ]; do sleep 0.01; done
}
for case in '2 {"ok":{"state":"failed"}}' '1 {"ok":{"state":"rebuilding"}}' '2 ' '2 nonsense'; do
	answer "${case:2}"$'\n'
	expect "${case:0:1}" "$EK" status fake --test
	wait
done
rm -f "$work/run/fake.sock"

step "destroy: all checks first, then nothing is left"
mapfile -t all < <(disks lraid64 6)
calm "${all[@]}"
expect 12 "$EK" destroy "${all[@]}" "$EK"
expect 12 "$EK" destroy "${all[@]}" "${all[0]}"
ln "${all[1]}" again
expect 12 "$EK" destroy "${all[@]}" again
expect 1 "$EK" destroy "${all[@]}" nosuch
cp --sparse=always "${all[2]}" taken
truncate -s 48M fs
mkfs.ext4 -q fs
dd if=fs of=taken bs=1K skip=1 seek=1 count=1 conv=notrunc status=none
expect 16 "$EK" destroy "${all[@]}" taken
said 'ext4'
expect 0 "$EK" destroy --dry-run "${all[@]}"
said "Would wipe ${all[0]}: member 0 of \"lraid64\"; superblocks b at byte 65536, c at byte" 'a at byte 4096'
untouched "${all[@]}" || die "a refused or dry destroy wrote something"
rm c
truncate -s 60M c
expect 0 "$EK" create old --level raid1 --file-size 60M c c.2
# One with damaged copies, one with an older array's copy at its end.
for copy in 4096 65536; do dd if=/dev/urandom of="${all[3]}" bs=1 seek=$((copy + 100)) count=8 conv=notrunc status=none; done
truncate -s 60M "${all[4]}"
dd if=c of="${all[4]}" bs=16K skip=3839 seek=3839 count=1 conv=notrunc status=none
"$EK" examine --json "${all[4]}" | jq -e '.[0] | .name == "lraid64" and (.superblocks | map(.copy) == ["a", "b", "c", "end"])' \
	>/dev/null || die "what is left at the end is not shown"
expect 0 "$EK" destroy "${all[@]}"
said "Wiped ${all[5]}" "Wiped ${all[3]}: member 3 of" "Wiped ${all[4]}" 'end at byte'
for disk in "${all[@]}"; do
	expect 12 "$EK" examine "$disk"
	expect 2 blkid -p "$disk"
	# Wherever a superblock may lie; the log and the data may speak of one elsewhere.
	if grep -obUa EVNKEEL1 "$disk" |
		awk -F: '{ at = $1 % 65536 } at == 0 || at == 4096 || at == 49152 { found = 1 } END { exit !found }'; then
		die "a superblock is left on $disk"
	fi
done
expect 12 "$EK" destroy "${all[0]}"
expect 0 "$EK" create fresh --level raid6 "${all[@]}"
# An array that was not stopped.
expect 0 "$EK" start fresh --via nbd
kill9 fresh
expect 0 "$EK" destroy "${all[@]}"
said 'not stopped cleanly'
ring=/dev/shm/evenkeel-$(cat "$work/run/identity")
rmdir "$ring" 2>/dev/null || [ ! -e "$ring" ] || die "the ring is left: $(ls "$ring")"
expect 10 "$EK" start fresh --via nbd
step "done"
