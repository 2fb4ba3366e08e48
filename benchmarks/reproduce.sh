#!/usr/bin/env bash
# The CIFAR-100 table on a GPU that is lent for a while, in calls of limited length: each goes on where the last one
# stopped, and leaves small files.
#
#   benchmarks/reproduce.sh gather PIECE DATA              move the Parquet files of PIECE to DATA; a call for each piece
#   benchmarks/reproduce.sh train DATA WORK OUT SECONDS [option of `mixstill reproduce cifar100` ...]
#
# WORK has to outlast the call. OUT gets table.json, table.md, curves.svg, log.txt, metrics.tar.gz (config, metrics and
# summary of each run) and the weights of the finished teachers. Options on one GPU: --scale full --amp --jobs 3. The
# rows come in order of importance, so that what there is no time for is what matters least. It ends with what the
# command ended with, 124 where its time was up. MIXSTILL_COMMIT tells the commit where the copy has no history, and
# PYTHONPATH the packages that the machine lacks.
set -u
here="$(cd "$(dirname "$0")/.." && pwd)"
export PYTHONPATH="$here/src${PYTHONPATH:+:$PYTHONPATH}"

gather() {
    mkdir -p "$2" && find "$1" -name '*.parquet' -exec mv {} "$2" \; && ls -l "$2"
}

train() {
    local data="$1" work="$2" out="$3" seconds="$4" code
    shift 4
    mkdir -p "$work" "$out"
    timeout -s TERM "$seconds" python -m mixstill reproduce cifar100 --data-dir "$data" --output "$work" "$@" \
        >>"$work/log.txt" 2>&1
    code=$?
    tail -n 60 "$work/log.txt"
    for file in table.json table.md curves.svg log.txt; do
        [ -e "$work/$file" ] && cp "$work/$file" "$out"
    done
    (cd "$work" && find . \( -name 'config.yaml' -o -name 'metrics.jsonl' -o -name 'summary.json' \) -print0 |
        tar czf - --null -T -) >"$out/metrics.tar.gz"
    for run in "$work"/teachers/*/; do
        [ -e "$run/weights.safetensors" ] && cp "$run/weights.safetensors" "$out/$(basename "$run").safetensors"
    done
    ls -l "$out"
    return "$code"
}

"$@"
