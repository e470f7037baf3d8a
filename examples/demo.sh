#!/usr/bin/env bash
# The whole way on the generated flora: from nothing to an encoder, an index, answers and a tree.
# Run it through `make demo`; it needs no network and no GPU.
set -euo pipefail
cd "$(dirname "$0")/.."
export HIER_DATA=demo PATH="$PWD/.venv/bin:$PATH"
step() { printf '\n== %s\n' "$*" >&2; }
seconds=$SECONDS

step "Before training: ImageNet features of unseen species (draws the flora on first use)"
hier eval --backbone tf_efficientnet_lite0 --image-size 128 --data demo --json | tee demo/before.json

step "Training"
hier train --data demo --recipe fast --train-size 96 --eval-size 128 --epochs 8 \
  --out demo/run --overwrite

step "Exporting, with proof on the photos"
hier export --checkpoint demo/run/best.pt -o demo/flora.onnx --data demo

step "After training: the exported encoder on the same unseen species"
hier eval --model demo/flora.onnx --data demo --json | tee demo/after.json

step "Indexing every photo and searching for one"
hier embed demo/demo/photos --model demo/flora.onnx --index demo/idx.faiss
query=$(find demo/demo/photos -name '*_003.jpg' | sort | head -n 1)
hier search "$query" --index demo/idx.faiss -k 5

step "The tree that was discovered"
hier hierarchy --checkpoint demo/run/best.pt

python - <<'PYTHON' >&2
import json
before, after = (json.load(open(f"demo/{name}.json"))["recall@1"] for name in ("before", "after"))
print(f"\nRecall@1 on species never seen in training: {before:.1f} before, {after:.1f} after.")
PYTHON
cat >&2 <<TEXT
Done in $((SECONDS - seconds)) seconds. Where to look:
  demo/run/neighbours.html   queries and what was found for them, right and wrong framed
  demo/run/curves.png        losses and validation
  demo/flora.onnx            the encoder; demo/idx.faiss the index of demo/demo/photos
TEXT
