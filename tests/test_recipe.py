"""Recipes against the published table, and what a recipe refuses."""

from pathlib import Path
from typing import Any

import pytest

from hiercli.errors import InputError
from hiercli.training import recipe


def test_every_cell_of_the_published_table_is_shipped() -> None:
    encoders = (
        "resnet50-512",
        "deit-s-128",
        "dino-s-128",
        "vit-s-128",
        "deit-s-384",
        "dino-s-384",
        "vit-s-384",
    )
    expected = {f"paper/{e}/{d}" for e in encoders for d in ("cub", "cars", "sop", "inshop")} | {
        "hier",
        "fast",
    }
    assert set(recipe.names()) == expected
    for name in expected:
        recipe.load(name)


@pytest.mark.parametrize(
    ("name", "lr", "epochs", "warmup", "decay", "head", "step", "factor"),
    [
        ("resnet50-512/cub", 1e-4, 100, 1, 1e-2, 1, 5, 0.5),
        ("resnet50-512/cars", 1e-4, 100, 1, 1e-2, 1, 10, 0.5),
        ("resnet50-512/sop", 6e-4, 150, 5, 1e-4, 1, 25, 0.3),
        ("resnet50-512/inshop", 6e-4, 150, 5, 1e-4, 1, 20, 0.3),
        ("vit-s-384/cub", 1e-5, 100, 1, 1e-2, 1, None, None),
        ("deit-s-128/inshop", 1e-5, 150, 5, 1e-4, 100, None, None),
        ("dino-s-128/cars", 5e-6, 100, 1, 1e-2, 1, None, None),
        ("dino-s-384/sop", 5e-6, 150, 5, 1e-4, 100, None, None),
    ],
)
def test_published_settings(
    name: str, lr: float, epochs: int, warmup: int, decay: float, head: float,
    step: int | None, factor: float | None,
) -> None:  # fmt: skip
    r = recipe.load(f"paper/{name}")
    assert (r.optimiser.lr, r.run.epochs, r.optimiser.warmup_epochs, r.optimiser.weight_decay) == (
        lr,
        epochs,
        warmup,
        decay,
    )
    assert r.optimiser.head_lr_factor == head
    assert r.optimiser.schedule == ("step" if step else "constant")
    if step:
        assert (
            r.optimiser.lr_step,
            r.optimiser.lr_decay,
            r.model.pooling,
            r.data.crop_scale_min,
        ) == (
            step,
            factor,
            "avgmax",
            0.08,
        )
    common = (
        r.loss.loss,
        r.hierarchy.hier_weight,
        r.hierarchy.num_proxies,
        r.model.c,
        r.model.clip_radius,
        r.hierarchy.margin,
        r.hierarchy.temperature,
    )
    assert common == ("proxy-anchor", 0.5, 512, 0.1, 2.3, 0.1, 0.1)
    assert (
        r.hierarchy.num_neighbours,
        r.hierarchy.triplets_per_anchor,
        r.data.batch_size,
        r.data.samples_per_class,
    ) == (
        20,
        50,
        180,
        2,
    )
    assert (r.optimiser.proxy_lr_factor, r.optimiser.class_proxy_lr_factor) == (50, 10_000)


def test_a_dumped_recipe_reads_back(tmp_path: Path) -> None:
    original = recipe.load("fast", {"seed": 7, "weights": 'a"b\\c', "freeze_batch_norm": False})
    (tmp_path / "r.toml").write_text(recipe.dump(original))
    assert recipe.load(str(tmp_path / "r.toml")) == original


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ({"c": 0.0}, "c to be at least 1e-06 and at most"),
        ({"epochs": 1.5}, "of type int"),
        ({"loss": "x"}, "one of proxy-anchor"),
        ({"batch_size": 9}, "multiple of"),
        ({"freeze_batch_norm": 1}, "of type bool"),
        ({"lr": float("nan")}, "finite"),
        ({"seed": 2**63}, "below"),
        ({"curv": 1}, "unknown setting curv"),
        ({"validation_share": 1.0}, "below 1"),
        ({"initial_radius": 2.3}, "below the clip_radius"),
        ({"head_whitening": 1.5}, "at least 0 and at most 1"),
    ],
)
def test_refusals(override: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        recipe.load("fast", override)


def test_unknown_and_unreadable_recipes(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("= 3")
    for name, words in (
        ("nope", "paper/vit-s-384/cub"),
        ("paper/vit-384/cub", "close to .*paper/vit-s-384/cub"),
        (str(tmp_path / "bad.toml"), "valid TOML"),
        ("gone.toml", "cannot read"),
    ):
        with pytest.raises(InputError, match=words):
            recipe.load(name)


_FAULTS = ("seeded_sampler", "half_precision_loss", "self_neighbours", "own_ancestors",
           "gradients_divided_twice")  # fmt: skip


def by_name(settings: recipe.Recipe) -> dict[str, object]:
    return {name: value for group in settings.to_dict().values() for name, value in group.items()}


def test_published_faults_are_the_paper_recipes_alone() -> None:
    for name in recipe.names():
        paper = name.startswith("paper/")
        values = by_name(recipe.load(name))
        assert [values[fault] for fault in _FAULTS] == [not paper] + 4 * [paper], name
        expected = (1e-4, 0.0) if paper else (1e-8, 0.15)
        assert (values["adam_eps"], values["validation_share"]) == expected, name
        assert not paper or values["freeze_batch_norm"], name  # "False" was a text that meant true


def test_files_of_earlier_versions_are_read(tmp_path: Path) -> None:
    """Settings without their groups, and one switch for all published faults."""
    flat = by_name(recipe.load("paper/vit-s-384/cub"))
    older = {key: value for key, value in flat.items() if key not in _FAULTS}
    older |= {"published_faults": True, "freeze_batch_norm": False}
    assert by_name(recipe.from_dict(older)) == flat
    (tmp_path / "r.toml").write_text("epochs = 3\npublished_faults = false\n[model]\nc = 1.0\n")
    assert recipe.load(str(tmp_path / "r.toml")) == recipe.Recipe.of(epochs=3, c=1.0)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"data": {"epochs": 3}}, "expected epochs in the group run, found it in data"),
        ({"epochs": 3, "run": {"epochs": 5}}, "found epochs twice"),
        ({"optimizer": {"lr": 1.0}}, "named data, run, .*optimiser, machine, got 'optimizer'"),
        ({"model": 3}, "expected tables of settings named .* got 'model'"),
        ({"published_faults": "false"}, "published_faults to be of type bool, got 'false'"),
        ({"run": {"epoch": 3}}, "unknown setting epoch. epoch is close to epochs"),
    ],
)
def test_a_file_is_not_read_loosely(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        recipe.from_dict(values)


def test_a_misspelt_setting_is_answered_by_its_neighbours() -> None:
    with pytest.raises(InputError, match="embeding_dim is close to embedding_dim"):
        recipe.load("hier", {"embeding_dim": 3})


def test_every_bound_of_every_setting_holds() -> None:
    outside = {"least": -1e-9, "above": 0.0, "most": 1.0, "below": 0.0}
    for group, setting in recipe.settings():
        whole = type(setting.default) is int
        for word, step in outside.items():
            if word in setting.metadata:
                bound = setting.metadata[word]
                wrong = bound + (int(step - (step < 0)) if whole else step)
                with pytest.raises(InputError, match=f"expected {setting.name} to be"):
                    recipe.Recipe.of(**{setting.name: wrong})
        assert group in recipe.Recipe().to_dict()
        assert setting.metadata["doc"]


def test_fast_is_the_default_made_shorter() -> None:
    ours, small = by_name(recipe.load(recipe.DEFAULT)), by_name(recipe.load("fast"))
    apart = {key for key, value in ours.items() if small[key] != value}
    assert apart == {"epochs", "cache", "lr"}
