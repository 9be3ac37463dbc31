#!/bin/bash
# fio over NBD: an Evenkeel array beside the same fio on one nbdkit file export, in interleaved
# rounds on the same file system. Prints medians and their ratio.
#
#   benches/fio/side-by-side.sh [ROUNDS]
#
# $EVENKEEL_BIN       the command (default target/release/evenkeel)
# $EVENKEEL_TEST_DIR  where the files lie (default $TMPDIR or /tmp)
# $LEVEL $K $M $SIZE  the array (default raid6 4 2, members of 512M)
# $ACK                cached (default) or durable
# $SECONDS_EACH       seconds a run (default 5)
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
EK=$(realpath "${EVENKEEL_BIN:-$here/../../target/release/evenkeel}")
rounds=${1:-5} level=${LEVEL:-raid6} k=${K:-4} m=${M:-2} size=${SIZE:-512M} ack=${ACK:-cached}
seconds=${SECONDS_EACH:-5}
for tool in fio nbdkit jq "$EK"; do
	command -v "$tool" >/dev/null || { echo "$tool is missing" >&2; exit 2; }
done

work=$(mktemp -d "${EVENKEEL_TEST_DIR:-${TMPDIR:-/tmp}}/evenkeel-fio.XXXXXX")
export EVENKEEL_RUN_DIR=$work/run
mkdir "$work/run"
take_down() {
	local code=$?
	"$EK" stop a --force >/dev/null 2>&1 || true
	if [ -s "$work/nbdkit.pid" ]; then kill "$(cat "$work/nbdkit.pid")" || true; fi
	rm -rf "$work"
	exit "$code"
}
trap take_down EXIT

disks=()
for ((i = 0; i < k + m; i++)); do disks+=("$work/disk.$i"); done
"$EK" create a --level "$level" --data "$k" --parity "$m" --file-size "$size" "${disks[@]}" >/dev/null
"$EK" start --via nbd --ack "$ack" "${disks[@]}" >/dev/null
bytes=$("$EK" status a --json | jq .size_bytes)
span=$((bytes < 1 << 30 ? bytes / 1048576 : 1024))M

truncate -s "$bytes" "$work/file"
nbdkit -U "$work/kit.sock" -P "$work/nbdkit.pid" file "$work/file"

# run SOCKET RW BS DEPTH : one number, IOPS or MB/s. A killed server would make fio's nbd engine spin.
run() {
	timeout -s INT -k 4 $((seconds + 60)) fio --name=run --ioengine=nbd \
		--uri="nbd+unix:///?socket=$1" --rw="$2" --bs="$3" --iodepth="$4" --size="$span" \
		--time_based --runtime="$seconds" --ramp_time=1 --norandommap --end_fsync=1 \
		--output-format=json --output="$work/out.json" >"$work/fio.log" 2>&1
	jq -r --arg bs "$3" '.jobs[0] | (.read.bw_bytes + .write.bw_bytes)
		| if $bs == "4k" then . / 4096 else . / 1e6 end | floor' "$work/out.json"
}

median() { sort -n | awk '{v[NR] = $1} END {print (NR % 2) ? v[(NR + 1) / 2] : int((v[NR / 2] + v[NR / 2 + 1]) / 2)}'; }

rows=("randwrite 4k 32" "randread 4k 32" "randwrite 4k 1" "randread 4k 1" "write 1M 8" "read 1M 8")

# Both are written once, so that nothing reads holes.
for socket in "$work/run/a.nbd" "$work/kit.sock"; do
	timeout -s INT -k 4 300 fio --name=fill --ioengine=nbd --uri="nbd+unix:///?socket=$socket" \
		--rw=write --bs=1M --iodepth=8 --size="$span" --end_fsync=1 --output="$work/fill" >"$work/fio.log" 2>&1
done

for ((round = 0; round < rounds; round++)); do
	for i in "${!rows[@]}"; do
		read -r rw bs depth <<<"${rows[$i]}"
		# Who comes first alternates.
		order=(ours kit)
		if ((round % 2)); then order=(kit ours); fi
		for who in "${order[@]}"; do
			socket=$work/run/a.nbd
			if [ "$who" = kit ]; then socket=$work/kit.sock; fi
			run "$socket" "$rw" "$bs" "$depth" >>"$work/$who.$i"
		done
	done
	printf '\rround %d of %d' $((round + 1)) "$rounds" >&2
done
printf '\n' >&2

printf '%s %d+%d (ack %s) beside one nbdkit file export, %d rounds of %d s, span %s, medians\n\n' \
	"$level" "$k" "$m" "$ack" "$rounds" "$seconds" "$span"
printf '| %-14s | %4s | %-5s | %9s | %9s | %5s |\n' run QD unit evenkeel nbdkit ratio
printf '|----------------|-----:|-------|----------:|----------:|------:|\n'
for i in "${!rows[@]}"; do
	read -r rw bs depth <<<"${rows[$i]}"
	unit=IOPS
	if [ "$bs" != 4k ]; then unit=MB/s; fi
	ours=$(median <"$work/ours.$i") kit=$(median <"$work/kit.$i")
	printf '| %-14s | %4s | %-5s | %9s | %9s | %5s |\n' "$bs $rw" "$depth" "$unit" "$ours" "$kit" \
		"$(awk -v a="$ours" -v b="$kit" 'BEGIN {printf "%.2f", b ? a / b : 0}')"
done
