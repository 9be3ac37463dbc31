#!/bin/bash
# What checksums cost: the same fio over NBD on two arrays, one with checksums and one without, in
# interleaved rounds on the same file system. Prints medians, their ratio, and for each the bytes that
# the daemon read from and wrote to its members for a byte of the user's, exactly.
#
#   benches/fio/checksums.sh [ROUNDS]
#
# $EVENKEEL_BIN       the command (default target/release/evenkeel)
# $EVENKEEL_TEST_DIR  where the files lie (default $TMPDIR or /tmp)
# $LEVEL $K $M $SIZE  the arrays (default raid6 4 2, members of 640M)
# $FILL               how much of them is in use (default 2048 MiB)
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
EK=$(realpath "${EVENKEEL_BIN:-$here/../../target/release/evenkeel}")
rounds=${1:-5} level=${LEVEL:-raid6} k=${K:-4} m=${M:-2} size=${SIZE:-640M} fill=${FILL:-2048}
for tool in fio jq awk "$EK"; do
	command -v "$tool" >/dev/null || { echo "$tool is missing" >&2; exit 2; }
done

work=$(mktemp -d "${EVENKEEL_TEST_DIR:-${TMPDIR:-/tmp}}/evenkeel-sums.XXXXXX")
export EVENKEEL_RUN_DIR=$work/run
mkdir "$work/run" "$work/rows"
take_down() {
	local code=$?
	for name in with without; do "$EK" stop "$name" --force >/dev/null 2>&1 || true; done
	rm -rf "$work"
	exit "$code"
}
trap take_down EXIT

# start NAME CACHE
start() {
	local disks=("$work/$1".*)
	"$EK" start --via nbd --checksum-cache "$2" "${disks[@]}" >/dev/null
}

for name in with without; do
	disks=()
	for ((i = 0; i < k + m; i++)); do disks+=("$work/$name.$i"); done
	option=()
	if [ "$name" = without ]; then option=(--no-checksums); fi
	"$EK" create "$name" --level "$level" --data "$k" --parity "$m" --file-size "$size" \
		"${option[@]}" "${disks[@]}" >/dev/null
	start "$name" 64M
done

member_bytes() { awk '/^read_bytes/ {r = $2} /^write_bytes/ {w = $2} END {print r, w}' "/proc/$(cat "$work/run/$1.pid")/io"; }

# fio NAME RW BS DEPTH SPAN IO : its JSON. A killed server would make fio's nbd engine spin.
run_fio() {
	timeout -s INT -k 4 600 fio --name=run --ioengine=nbd --uri="nbd+unix:///?socket=$work/run/$1.nbd" \
		--rw="$2" --bs="$3" --iodepth="$4" --size="$5" --io_size="$6" --norandommap --randseed="$seed" \
		--end_fsync=1 --output-format=json --output="$work/out.json" >"$work/fio.log" 2>&1
}

# measure NAME RW BS DEPTH SPAN IO : user bytes, rate, member bytes read and written, destage included.
measure() {
	local read written read_after written_after
	read -r read written < <(member_bytes "$1")
	run_fio "$@"
	"$EK" wait "$1" destage --timeout 300
	read -r read_after written_after < <(member_bytes "$1")
	jq -r --arg bs "$3" --argjson r "$((read_after - read))" --argjson w "$((written_after - written))" \
		'.jobs[0] | (.read.io_bytes + .write.io_bytes) as $user | (.read.bw_bytes + .write.bw_bytes) as $rate
		| [(if $bs == "4k" then $rate / 4096 else $rate / 1e6 end | floor), $r / $user, $w / $user] | @tsv' \
		"$work/out.json"
}

median() { sort -g | awk '{v[NR] = $1} END {print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2}'; }

rows=(
	"warm randread 4k 32 64M 256M"
	"cold randread 4k 32 ${fill}M 16M"
	"cold randread 4k 1 ${fill}M 8M"
	"warm randwrite 4k 32 16M 128M"
	"wide randwrite 4k 32 ${fill}M 64M"
	"whole write 1M 8 ${fill}M 512M"
	"whole read 1M 8 ${fill}M 512M"
)

seed=1
for name in with without; do run_fio "$name" write 1M 8 "${fill}M" "${fill}M"; "$EK" wait "$name" destage --timeout 300; done
for ((round = 0; round < rounds; round++)); do
	for i in "${!rows[@]}"; do
		read -r kind rw bs depth span io <<<"${rows[$i]}"
		# Who comes first alternates.
		order=(with without)
		if ((round % 2)); then order=(without with); fi
		seed=$((round * 100 + i))
		for name in "${order[@]}"; do
			if [ "$kind" = cold ]; then
				"$EK" stop "$name" >/dev/null
				start "$name" 1M
			elif [ "$kind" = warm ]; then
				run_fio "$name" read 1M 8 "$span" "$span"
			fi
			measure "$name" "$rw" "$bs" "$depth" "$span" "$io" >>"$work/rows/$name.$i"
			if [ "$kind" = cold ]; then
				"$EK" stop "$name" >/dev/null
				start "$name" 64M
			fi
		done
	done
	printf '\rround %d of %d' $((round + 1)) "$rounds" >&2
done
printf '\n' >&2

printf '%s %d+%d with and without checksums, %d rounds, %d MiB in use, medians\n\n' "$level" "$k" "$m" "$rounds" "$fill"
printf '| %-22s | %4s | %-5s | %8s | %8s | %5s | %21s | %21s |\n' run QD unit with without ratio \
	"member bytes read" "member bytes written"
printf '|------------------------|-----:|-------|---------:|---------:|------:|----------------------:|----------------------:|\n'
column() { cut -f "$3" "$work/rows/$1.$2" | median; }
for i in "${!rows[@]}"; do
	read -r kind rw bs depth span _ <<<"${rows[$i]}"
	unit=IOPS
	if [ "$bs" != 4k ]; then unit=MB/s; fi
	a=$(column with "$i" 1) b=$(column without "$i" 1)
	printf '| %-22s | %4s | %-5s | %8.0f | %8.0f | %5s | %9.3f and %7.3f | %9.3f and %7.3f |\n' "$kind $bs $rw" "$depth" "$unit" "$a" "$b" \
		"$(awk -v a="$a" -v b="$b" 'BEGIN {printf "%.2f", b ? a / b : 0}')" \
		"$(column with "$i" 2)" "$(column without "$i" 2)" "$(column with "$i" 3)" "$(column without "$i" 3)"
done
