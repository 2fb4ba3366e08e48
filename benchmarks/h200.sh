#!/usr/bin/env bash
# What issue 3 asks of a GPU, in order of importance: the CUDA tests (golden curves, generator bits, views), then the
# share of a step that views take. Usage: benchmarks/h200.sh OUT [batch size]
set -u
out="$1"
batch="${2:-1024}"
cd "$(dirname "$0")/.."
python -m pytest -q -k "cuda or CUDA" -p no:cacheprovider 2>&1 | tee "$out/cuda-tests.txt"
python benchmarks/share.py cifar100-std --amp --batch-size "$batch" --output "$out/views-share-32.json"
python benchmarks/share.py imagenet-std-mixer-s16 --amp --batch-size "$batch" --output "$out/views-share-224.json"
