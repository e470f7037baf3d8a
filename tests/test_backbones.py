"""Backbones of timm: the sizes and names that they take, and what is said of the others."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from hiercli.errors import FileFormatError, HierError, InputError
from hiercli.nn import backbone
from hiercli.training import checkpoint
from hiercli.training.recipe import Recipe

Hier = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.mark.parametrize(
    ("name", "size"),
    [("deit_tiny_patch16_224", 64), ("eva02_tiny_patch14_224", 56), ("cait_xxs24_224", 64),
     ("swin_tiny_patch4_window7_224", 64), ("mixer_s32_224", 64),  # took their own size alone
     ("fastvit_t8", 64), ("efficientvit_b0", 64)],  # have no `img_size`
)  # fmt: skip
def test_a_backbone_is_built_for_the_size_asked_for(name: str, size: int) -> None:
    model = backbone.create(name, weights="none", image_size=size).eval()
    with torch.no_grad():
        features = model(torch.randn(3, 3, size, size))
    assert features.shape == (3, backbone.num_features(model, size))
    assert backbone.preprocessing(model, size=size).size == size


def test_training_and_evaluation_at_two_sizes() -> None:
    """A network whose weights do not depend on the size takes both; another says so."""
    sizes: dict[str, Any] = {"weights": "none", "train_size": 64, "eval_size": 96}
    embedder, _ = checkpoint.new_embedder(Recipe.of(backbone="pvt_v2_b0", **sizes))
    for size in (64, 96):
        points = embedder(torch.randn(2, 3, size, size))
        points.sum().backward()
        assert points.isfinite().all()
    for name in ("levit_128s", "deit_tiny_patch16_224"):
        with pytest.raises(InputError, match=r"64 x 64.* --train-size and --eval-size the same"):
            checkpoint.new_embedder(Recipe.of(backbone=name, **sizes))


@pytest.mark.parametrize("name", ["levit_128s", "dla46_c", "coatnet_pico_rw_224"])
def test_a_size_that_a_backbone_cannot_take_is_answered_by_sizes_that_it_can(name: str) -> None:
    with pytest.raises(InputError) as refused:
        backbone.create(name, weights="none", image_size=150)
    said = str(refused.value)
    assert said.startswith(f"{name} cannot take images of 150 x 150 pixels (")
    assert said.endswith("Change --image-size. It accepts 128, 160, 224 (its default)")
    for size in (128, 160):
        assert backbone.create(name, weights="none", image_size=size)
    for size in (0, -5):
        with pytest.raises(InputError, match=f"{size} x {size}.*. It accepts .*224"):
            backbone.create(name, weights="none", image_size=size)


def test_the_commands_name_their_own_options(photos: Path, tmp_path: Path, inside: Hier) -> None:
    weights = ("--data", photos, "--weights", "none", "--backbone", "levit_128s")
    for words, option in (
        (("eval", "--image-size", 150), b"Change --image-size."),
        (("train", "--train-size", 150, "--eval-size", 150, "--out", tmp_path / "run"),
         b"Change --train-size and --eval-size."),
    ):  # fmt: skip
        done = inside(*words, *weights)
        assert done.returncode == 2
        assert b"error: levit_128s cannot take images of 150 x 150 pixels" in done.stderr
        assert option in done.stderr


@pytest.mark.parametrize(
    "name", ["hf-hub:timm/resnet18.a1_in1k", "local-dir:/tmp", "timm/resnet18", r"C:\models\x"]
)
def test_a_name_is_never_a_place(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A checkpoint of a stranger may name one, and loading fetches nothing."""
    file = tmp_path / "a.pt"
    recipe = Recipe.of(backbone="test_efficientnet", weights="none", train_size=32, eval_size=32)
    embedder, preprocessing = checkpoint.new_embedder(recipe)
    checkpoint.save(
        file, embedder=embedder, preprocessing=preprocessing, recipe=recipe,
        proxies=torch.zeros(4, 128), class_names=["a"], class_points=torch.zeros(1, 128),
    )  # fmt: skip
    assert checkpoint.load(file).recipe == recipe
    content = torch.load(file, weights_only=True)
    content["recipe"]["model"]["backbone"] = name
    torch.save(content, file)
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: pytest.fail("it was built"))
    with pytest.raises(InputError, match="plain name of a timm model"):
        backbone.create(name)
    with pytest.raises(HierError, match="plain name of a timm model"):
        checkpoint.load(file)


def test_an_unknown_name_is_answered_by_near_ones() -> None:
    with pytest.raises(InputError, match="close to resnet50"):
        backbone.create("resnet5O", weights="none")
    with pytest.raises(InputError, match=r"no weights 'x' for resnet18.*resnet18\.a1_in1k"):
        backbone.create("resnet18.x")


class Odd(nn.Module):
    """A model of timm whose features are not one vector per image."""

    def __init__(self, features: Any) -> None:
        super().__init__()
        self.pretrained_cfg = {"architecture": "odd"}
        self.features = features

    def reset_classifier(self, classes: int) -> None:
        """It has none."""

    def forward(self, x: Tensor) -> Any:
        """Whatever it was made with."""
        return self.features


@pytest.mark.parametrize(
    ("features", "said"),
    [(torch.zeros(1, 49, 8), r"\(1, 49, 8\)"), (torch.zeros(8), r"\(8,\)"),
     ((torch.zeros(1, 8),), "got tuple"), (torch.full((1, 8), torch.nan), "not finite")],
)  # fmt: skip
def test_features_are_one_finite_vector_for_each_image(
    features: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: Odd(features))
    with pytest.raises(InputError, match=said):
        backbone.create("resnet18", weights="none")


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    file = tmp_path / "w.pt"
    torch.save(timm.create_model("test_vit").state_dict(), file)
    assert backbone.create("test_vit", weights=str(file))
    assert backbone.create("test_vit", weights=str(file), image_size=64)  # positions are resampled
    with pytest.raises(FileFormatError, match=r"does not fit the backbone test_efficientnet"):
        backbone.create("test_efficientnet", weights=str(file))
    state = timm.create_model("test_efficientnet").state_dict()
    torch.save({key: value * torch.nan for key, value in state.items()}, file)
    with pytest.raises(InputError, match="not finite"):
        backbone.create("test_efficientnet", weights=str(file))


@pytest.mark.parametrize(
    ("error", "said"),
    [(OSError("No such host."), r"\(No such host\)\. Name a file"),
     (RuntimeError("Error(s) in loading state_dict:\n\tsize mismatch for pos_embed"),
       r"\(size mismatch for pos_embed\)\. Set --image-size to 160, the image "
       r"size of these weights\. Name a file")],
)  # fmt: skip
def test_weights_of_the_hub_that_cannot_be_had(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = timm.create_model

    def fetched(name: str, pretrained: bool, **options: Any) -> nn.Module:
        if pretrained:
            raise error
        return build(name, **options)

    monkeypatch.setattr(timm, "create_model", fetched)
    with pytest.raises(InputError, match=said):
        backbone.create("test_vit", weights="hub", image_size=64)


def test_both_classifiers_of_a_distilled_model_may_be_missing(tmp_path: Path) -> None:
    file = tmp_path / "w.pt"
    state = timm.create_model("deit_tiny_distilled_patch16_224").state_dict()
    torch.save({key: value for key, value in state.items() if not re.match("head", key)}, file)
    model = backbone.create("deit_tiny_distilled_patch16_224", weights=str(file))
    assert torch.equal(model.state_dict()["pos_embed"], state["pos_embed"])


def test_models_that_are_no_classifiers_and_poolings_that_a_model_lacks() -> None:
    with torch.device("meta"), pytest.raises(InputError, match="does not classify images"):
        backbone.create("mobilenetv5_300m_enc", weights="none")
    with pytest.raises(InputError, match=r"with pooling token .*another backbone or pooling"):
        backbone.create("test_efficientnet", weights="none", pooling="token")
