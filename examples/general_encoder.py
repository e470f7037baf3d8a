"""Make models/general.onnx, the encoder that serves when none is named, from no picture at all.

The 1,000 rows of the ImageNet classifier of the default backbone are prototypes of everyday
classes in feature space: they become the classes, and the joins of their tree the hierarchical
proxies. A third of the head takes the directions in which these rows differ most, and in which the
last convolution can make features differ at all. The rest mixes all others at random, for what sets
apart things that ImageNet does not name; of these the proxies know nothing.

    python examples/general_encoder.py
"""

import tempfile
from pathlib import Path

import numpy as np
import timm
import torch
from timm.data import ImageNetInfo

from hiercli.hierarchy.proxies import grow_proxies
from hiercli.nn import backbone, tensor_file
from hiercli.onnx_export import export
from hiercli.training import checkpoint
from hiercli.training.recipe import Recipe

TARGET = Path(__file__).parents[1] / "models" / "general.onnx"
# Chosen on the training classes of the CUB and Cars subsets, as were GeM pooling and the crop. Mean
# Recall@1 there at 384 dimensions over three seeds of the random part: 88.6 and 35.9, with a spread
# of 0.2 and 0.4. Leading directions only: 89.0 and 34.7; with an average in place of GeM 87.9 and
# 33.9, and with a crop of 0.875 besides 87.4 and 33.7. At 128 dimensions: 87.7 and 32.0, a random
# projection 85.7 and 30.8.
REACH = 3.0
"""Weight of what the last convolution can do beside the rows."""
LEADING = 128
"""Directions that are taken as they are. The others are mixed at random: such a projection keeps
distances whatever the features are like (Johnson and Lindenstrauss)."""
RADIUS = 2.0
"""Mean tangent length of features; the clip radius of 2.3 is beyond nearly all of them."""


def main() -> None:
    """Build the head, save a checkpoint, export it."""
    settings = Recipe.of(embedding_dim=384, num_proxies=256, pooling="gem", eval_crop_share=1.0)
    embedder, preprocessing = checkpoint.new_embedder(settings)
    rows = classifier_rows()
    with torch.no_grad():
        directions = projection(rows, embedder.backbone, settings.model.embedding_dim)
        embedder.head.weight.copy_(directions * (RADIUS / rows.shape[1] ** 0.5))
        tangent = embedder.tangent(rows)
        known = tangent.clone()
        known[:, LEADING:] = 0
        places = grow_proxies(known.numpy(), np.arange(len(rows)), settings.hierarchy.num_proxies)
        proxies = embedder.to_poincare(torch.from_numpy(places))
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


def projection(rows: torch.Tensor, network: torch.nn.Module, count: int) -> torch.Tensor:
    """A projection of features to ``count`` dimensions in which much can be told apart, (count, F).

    The `LEADING` first are orthonormal: eigenvectors of a sum of two covariances of equal trace,
    the second weighted by `REACH`: that of the classifier's rows, and that of the last
    convolution's outputs for uncorrelated inputs. The others mix what is left at random, so long
    that lengths are kept on average.

    Args:
        rows: (C, F) of the classifier.
        network: with ``conv_head`` and ``bn2`` before its pooling, as timm's EfficientNets have.
    """
    normal = torch.nn.functional.layer_norm(rows, rows.shape[1:]).double()
    spread = normal - normal.mean(dim=0)
    norm = network.get_submodule("bn2")
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    filters = network.get_submodule("conv_head").weight.flatten(1) * scale[:, None]
    reach = filters.double() - filters.double().mean(dim=0)
    told = spread.T @ spread / spread.square().sum()
    _, vectors = torch.linalg.eigh(told + REACH * reach @ reach.T / reach.square().sum())
    taken = min(LEADING, count)
    leading, rest = vectors.flip(1).T.split([taken, len(vectors) - taken])
    generator = torch.Generator().manual_seed(0)
    mixture = torch.randn(len(rest), count - taken, generator=generator, dtype=torch.float64)
    mixed = torch.linalg.qr(mixture).Q.T @ rest * (len(rest) / max(1, count - taken)) ** 0.5
    return torch.cat([leading, mixed]).float()


def classifier_rows() -> torch.Tensor:
    """The rows of the backbone's ImageNet classifier, (1000, F)."""
    saved = tensor_file.read(Path(backbone._packaged_weights()))
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
