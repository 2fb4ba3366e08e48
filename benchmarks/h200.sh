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
python $here/races/race.py all --device cuda --precision same best "${contenders[@]}" \
    ${data:+--data-dir "$data"} --output "$out"

# twelve epochs of cifar100-std with live and then with cached teachers: the projection to 300 is seconds * 25
for cache in "" "$out/cache"; do
    python -m mixstill train cifar100-std ${data:+--data-dir "$data"} --amp --epochs 12 --batch-size "$batch" \
        --compile always ${cache:+--cache "$cache"} --output "$out/cifar100-std${cache:+-cached}"
done
