#!/usr/bin/env bash
# What is asked of a GPU, in order of importance. Each line writes its own file into OUT as it goes; a line that fails
# leaves the others be.
#
#   benchmarks/h200.sh OUT [batch size] [DIR with CIFAR-100] [checkout of std] [checkout of timm] [checkout of DeiT]
set -u
out="$1"
batch="${2:-1024}"
data="${3:-}"
cd "$(dirname "$0")/.."
here=benchmarks

# the CUDA tests: golden curves, generator bits, views, compiled steps
python -m pytest -q -k "cuda or CUDA" -p no:cacheprovider 2>&1 | tee "$out/cuda-tests.txt"

# model-FLOP utilisation and kernels
python $here/utilisation.py mixer_s4_32 mixer_s16_224 --amp --batch-size "$batch" --output "$out/utilisation.json"

# where a step goes, at 32 and 224 pixels
python $here/share.py cifar100-std imagenet-std-mixer-s16 --amp --batch-size "$batch" --output "$out/share-cuda.json"

# the races
contenders=()
[ -n "${4:-}" ] && contenders+=(--std "$4")
[ -n "${5:-}" ] && contenders+=(--timm "$5")
[ -n "${6:-}" ] && contenders+=(--deit "$6")
python $here/races/race.py all --device cuda --precision eager same best "${contenders[@]}" \
    ${data:+--data-dir "$data"} --output "$out"

# epochs of cifar100-std with live and with cached teachers, and the projection to 300: the first run only compiles
run() {
    python -m mixstill train cifar100-std ${data:+--data-dir "$data"} --amp --batch-size "$batch" --compile always \
        --epochs "$1" --output "$2" "${@:3}"
}
python -m mixstill cache cifar100-std ${data:+--data-dir "$data"} --amp --batch-size "$batch" --epochs 12 --cache /tmp/cache
for cache in "" "--cache /tmp/cache"; do
    run 1 /tmp/warm $cache && rm -r /tmp/warm
    run 2 /tmp/short $cache && run 12 /tmp/long $cache
    python $here/projection.py /tmp/short /tmp/long --epochs 300 --output "$out/projection${cache:+-cached}.json"
    rm -r /tmp/short /tmp/long
done
