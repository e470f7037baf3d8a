#!/usr/bin/env bash
# The whole way on the generated flora: from nothing to an encoder, an index, answers and a tree.
# Run it through `make demo`; it needs no network and no GPU.
set -euo pipefail
cd "$(dirname "$0")/.."
export HIER_DATA=runs/data PATH="$PWD/.venv/bin:$PATH"
step() { printf '\n== %s\n' "$*" >&2; }

step "Training, and the same backbone untrained beside it (draws the flora on first use)"
hier train --data demo --recipe fast --train-size 96 --eval-size 128 --out runs/demo --overwrite

step "Exporting, with proof on the photos"
hier export --checkpoint runs/demo/best.pt -o runs/demo/flora.onnx --data demo

step "Indexing every photo and searching for one"
hier embed runs/data/demo/photos --model runs/demo/flora.onnx --index runs/demo/idx.faiss
query=$(find runs/data/demo/photos -name '*_003.jpg' | sort | sed -n 1p)
hier search "$query" --index runs/demo/idx.faiss -k 5

step "The tree of the species that it was trained on"
hier hierarchy --checkpoint runs/demo/best.pt

cat >&2 <<TEXT

It took $SECONDS seconds. Where to look:
  runs/demo/neighbours.html  queries and what was found for them, right and wrong framed
  runs/demo/curves.png       losses and validation
  runs/demo/flora.onnx       the encoder; runs/demo/idx.faiss the index of runs/data/demo/photos
TEXT
