#!/usr/bin/env bash
# The CIFAR-100 table on a GPU that is lent for a while, in calls of limited length: each goes on where the last one
# stopped, and leaves small files.
#
#   benchmarks/reproduce.sh gather PIECE DATA              move the Parquet files of PIECE to DATA; a call for each piece
#   benchmarks/reproduce.sh train DATA WORK OUT SECONDS [option of `mixstill reproduce cifar100` ...]
#   benchmarks/reproduce.sh restore OUT WORK               what is finished in OUT, to go on with on another machine
#
# WORK has to outlast the call. OUT gets, while it trains too, table.json, table.md, curves.svg, log.txt, runs.tar.gz
# (config, metrics, summary and log of each run) and the weights of the finished teachers. The rows come in order of
# importance, so that what there is no time for is what matters least. It ends with what the command ended with, 124
# where its time was up, 137 where a run then needed more than a minute to stop.
#
# Options on one GPU: --scale full --amp --compile graphs --train.eval_interval 10 --jobs 3. A row has 117,000 steps, and
# is lost with the machine unless it is finished: time a few hundred steps first (mixstill check), and ask for as many
# rows as there is time for. PYTHON names the interpreter, PYTHONPATH the packages that the machine lacks, and
# MIXSTILL_COMMIT the commit where the copy has no history.
set -u
here="$(cd "$(dirname "$0")/.." && pwd)"
export PYTHONPATH="$here/src${PYTHONPATH:+:$PYTHONPATH}"

gather() {
    mkdir -p "$2" || return
    find "$1" -name '*.parquet' -exec mv -t "$2" {} + && ls -l "$2"/*.parquet
}

train() {
    local data="$1" work="$2" out="$3" seconds="$4" process code
    shift 4
    mkdir -p "$work" "$out" || return
    timeout -k 60 -s TERM "$seconds" "${PYTHON:-python3}" -m mixstill reproduce cifar100 \
        --data-dir "$data" --output "$work" "$@" >>"$work/log.txt" 2>&1 &
    process=$!
    while kill -0 "$process" 2>/dev/null; do
        leave "$work" "$out"
        sleep "${POLL:-10}"
    done
    wait "$process"
    code=$?
    leave "$work" "$out"
    tail -n 60 "$work/log.txt"
    ls -l "$out"
    return "$code"
}

leave() {
    local file run
    for file in table.json table.md curves.svg log.txt; do
        [ -e "$1/$file" ] && cp "$1/$file" "$2"
    done
    (cd "$1" && find . \( -name config.yaml -o -name metrics.jsonl -o -name summary.json -o -name '*.log' \
        -o -name '*.seconds' \) -print0 | tar czf - --null -T -) >"$2/runs.tar.gz" 2>/dev/null
    for run in "$1"/teachers/*/; do
        [ -e "$run/summary.json" ] && cp -u "$run/weights.safetensors" "$2/$(basename "$run").safetensors"
    done
}

restore() {
    local file
    mkdir -p "$2" && tar xzf "$1/runs.tar.gz" -C "$2" || return
    for file in "$1"/*.safetensors; do
        cp "$file" "$2/teachers/$(basename "$file" .safetensors)/weights.safetensors"
    done
}

case "${1:-}" in
gather | train | restore) "$@" ;;
*)
    echo "usage: $0 gather PIECE DATA | train DATA WORK OUT SECONDS [OPTION ...] | restore OUT WORK" >&2
    exit 2
    ;;
esac
