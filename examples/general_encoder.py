"""Make models/general.onnx, the encoder that serves when none is named, from no picture at all.

The 1,000 rows of the ImageNet classifier of the default backbone are prototypes of everyday
classes in feature space. Their principal components become the head, the rows themselves the
classes, and centres of groups of rows, drawn halfway to the origin, the hierarchical proxies.

    python examples/general_encoder.py
"""

import tempfile
from pathlib import Path

import numpy as np
import timm
import torch
from scipy.cluster.vq import kmeans2
from timm.data import ImageNetInfo

from hiercli.export import export
from hiercli.nn import backbone
from hiercli.training import checkpoint
from hiercli.training.recipe import Recipe

TARGET = Path(__file__).parents[1] / "models" / "general.onnx"
RADIUS = 2.2
"""Tangent length of a feature that the head keeps whole: inside the clip radius of 2.3."""


def main() -> None:
    """Build the head, save a checkpoint, export it."""
    settings = Recipe(embedding_dim=384, num_proxies=96)
    embedder, preprocessing = checkpoint.new_embedder(settings)
    rows = classifier_rows()
    centred = torch.nn.functional.layer_norm(rows, rows.shape[1:])
    _, _, components = torch.linalg.svd(centred - centred.mean(0), full_matrices=False)
    with torch.no_grad():
        scale = RADIUS / rows.shape[1] ** 0.5
        embedder.head.weight.copy_(components[: settings.embedding_dim] * scale)
        tangent = embedder.tangent(rows)
        centres, _ = kmeans2(tangent.numpy(), settings.num_proxies, minit="++", seed=0)
        proxies = embedder.to_poincare(torch.from_numpy(centres.astype(np.float32)) / 2)
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "general.pt"
            checkpoint.save(
                source,
                embedder=embedder,
                preprocessing=preprocessing,
                recipe=settings,
                proxies=proxies,
                class_names=class_names(),
                class_points=embedder.to_poincare(tangent),
            )
            print(export(source, TARGET))


def classifier_rows() -> torch.Tensor:
    """The rows of the backbone's ImageNet classifier, (1000, F)."""
    saved = backbone.read_state_dict(Path(backbone._packaged_weights()))
    model = timm.create_model(backbone.DEFAULT)
    (position,) = [n for n, key in enumerate(model.state_dict()) if key == "classifier.weight"]
    rows = list(saved.values())[position]
    assert isinstance(rows, torch.Tensor)
    return rows


def class_names() -> list[str]:
    """The 1,000 ImageNet classes in words; a name that occurs twice is numbered."""
    info = ImageNetInfo()
    names = [info.index_to_description(index).split(",")[0] for index in range(1000)]
    return [f"{name} ({n})" if names.count(name) > 1 else name for n, name in enumerate(names)]


if __name__ == "__main__":
    main()
