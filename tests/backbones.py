"""Sixty backbones of timm: train a step, export to ONNX, embed an image, each at two sizes.

`make backbones` runs it and writes tests/backbones.md. Weights are random, so nothing is fetched.
Each row runs in a process of its own; rows that the table already has are not run again.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import timm
import torch
from PIL import Image

from hiercli.encoder.encoder import Encoder
from hiercli.errors import HierError
from hiercli.onnx_export import export
from hiercli.training import checkpoint
from hiercli.training.recipe import Recipe

NAMES = """
resnet18 resnext50_32x4d resnetv2_50 regnety_002 densenet121 vgg11 efficientnet_b0
tf_efficientnet_lite0 mobilenetv3_small_050 convnext_atto vit_tiny_patch16_224
vit_small_patch14_dinov2 vit_small_patch16_dinov3 vit_xsmall_patch16_clip_224
vit_base_patch32_siglip_256 deit_tiny_patch16_224 deit3_small_patch16_224
swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 eva02_tiny_patch14_224 beit_base_patch16_224
cait_xxs24_224 pvt_v2_b0 mixer_s32_224 gmlp_ti16_224 resmlp_12_224 levit_128s coatnet_pico_rw_224
maxvit_rmlp_pico_rw_256 pit_ti_224 tnt_s_patch16_224 twins_svt_small xcit_nano_12_p16_224
crossvit_tiny_240 convit_tiny coat_lite_tiny poolformer_s12 caformer_s18 edgenext_xx_small
mobilevit_xxs efficientformer_l1 efficientformerv2_s0 fastvit_t8 ghostnetv2_100 hrnet_w18_small
dla46_c inception_v3 nfnet_l0 repvgg_a0 hiera_tiny_224 nextvit_small mambaout_femto tiny_vit_5m_224
volo_d1_224 visformer_tiny efficientvit_b0 davit_tiny gcvit_xxtiny repvit_m0_9 focalnet_tiny_srf
"""
"""The smallest variant of each family, or nearly so."""

TABLE = Path(__file__).with_suffix(".md")
STAGES = ("train", "export", "embed")
SECOND_SIZE = 160
LIMIT = 900
"""Seconds for a row."""


def main() -> None:
    """Fill the table and print how many rows pass each stage."""
    rows = read_table()
    for name in NAMES.split():
        own = timm.get_pretrained_cfg_value(name, "input_size")[-1]
        for size in (own if own <= 256 else 224, SECOND_SIZE):
            if (name, str(size)) not in rows:
                rows[name, str(size)] = row = run_apart(name, size)
                print(name, size, *row, flush=True)
                write_table(rows)
    print(counts(rows))


def run_apart(name: str, size: int) -> list[str]:
    """The cells of a row: one for each stage, then what was said where one failed."""
    try:
        done = subprocess.run(
            [sys.executable, __file__, name, str(size)],
            capture_output=True, text=True, timeout=LIMIT, check=False,
        )  # fmt: skip
        out = done.stdout
        said = "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["killed"])[-1]
    except subprocess.TimeoutExpired as late:
        out = late.stdout.decode() if late.stdout else ""
        said = f"not done after {LIMIT} s"
    passed = [line.removeprefix("passed ") for line in out.splitlines() if line[:7] == "passed "]
    refused = said.startswith("refused: ")
    failed = "refused" if refused else "failed"
    cells = ["yes" if stage in passed else "" for stage in STAGES]
    if len(passed) < len(STAGES):
        cells[len(passed)] = failed
    return [*cells, said.removeprefix("refused: ").replace("|", "/")]


def run(name: str, size: int) -> None:
    """Do it all with one backbone; print a line for each stage that passes."""
    recipe = Recipe.of(
        backbone=name, weights="none", train_size=size, eval_size=size, embedding_dim=16
    )
    embedder, preprocessing = checkpoint.new_embedder(recipe)
    embedder.train()
    optimizer = torch.optim.AdamW(embedder.parameters(), lr=1e-4)
    points = embedder(torch.randn(4, 3, size, size))
    torch.pdist(points).mean().neg().backward()
    gradients = [p.grad for p in embedder.backbone.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.any() for gradient in gradients)
    optimizer.step()
    print("passed train", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        source, model, image = (Path(folder) / name for name in ("a.pt", "a.onnx", "a.png"))
        checkpoint.save(
            source,
            embedder=embedder,
            preprocessing=preprocessing,
            recipe=recipe,
            proxies=torch.zeros(4, 16),
            class_names=["a", "b"],
            class_points=torch.zeros(2, 16),
        )
        export(source, model)
        print("passed export", flush=True)
        pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(image)
        done = Encoder(model, device="cpu").embed([image])
        assert done.points.shape == (1, 16) and np.isfinite(done.points).all()
        print("passed embed", flush=True)


def read_table() -> dict[tuple[str, str], list[str]]:
    """Rows that are already there, by backbone and size."""
    lines = TABLE.read_text().splitlines() if TABLE.exists() else []
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line[:2] == "| "]
    return {(name, size): cells for name, size, *cells in rows[1:]}


def write_table(rows: dict[tuple[str, str], list[str]]) -> None:
    """The whole table, with the counts above it."""
    head = ["backbone", "size", *STAGES, "what `hier` says"]
    lines = ["| " + " | ".join(cells) + " |" for cells in
             [head, *([*key, *cells] for key, cells in rows.items())]]  # fmt: skip
    lines.insert(1, "|---" * len(head) + "|")
    about = (
        f"Backbones of timm {timm.__version__} with random weights: one training step, export to "
        f"ONNX with its proof, one image embedded by ONNX Runtime. Each at its own size (224 where "
        f"that is above 256) and at {SECOND_SIZE}. `make backbones` writes this table; delete a "
        "row to run it again."
    )
    TABLE.write_text("\n".join(["# Backbones", "", about, "", counts(rows), "", *lines, ""]))


def counts(rows: dict[tuple[str, str], list[str]]) -> str:
    """How many rows pass each stage, in one sentence."""
    passed = [sum(cells[i] == "yes" for cells in rows.values()) for i in range(len(STAGES))]
    refused = sum("refused" in cells for cells in rows.values())
    named = ", ".join(f"{count} {stage}" for count, stage in zip(passed, STAGES, strict=True))
    return f"Of {len(rows)} rows: {named}, {refused} are refused in one sentence."


if __name__ == "__main__":
    if len(sys.argv) == 3:
        try:
            run(sys.argv[1], int(sys.argv[2]))
        except HierError as error:
            sys.exit(f"refused: {error}")
        except Exception as error:
            while error.__cause__:
                error = error.__cause__
            sys.exit(f"{type(error).__name__}: {[*str(error).splitlines(), ''][0]}")
    else:
        main()
