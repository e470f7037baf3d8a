"""Recipes against the published table, and what a recipe refuses."""

from pathlib import Path

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
    ("name", "lr", "epochs", "warmup", "decay", "head", "step", "factor", "frozen"),
    [
        ("resnet50-512/cub", 1e-4, 100, 1, 1e-2, 1, 5, 0.5, True),
        ("resnet50-512/cars", 1e-4, 100, 1, 1e-2, 1, 10, 0.5, True),
        ("resnet50-512/sop", 6e-4, 150, 5, 1e-4, 1, 25, 0.3, False),
        ("resnet50-512/inshop", 6e-4, 150, 5, 1e-4, 1, 20, 0.3, False),
        ("vit-s-384/cub", 1e-5, 100, 1, 1e-2, 1, None, None, False),
        ("deit-s-128/inshop", 1e-5, 150, 5, 1e-4, 100, None, None, False),
        ("dino-s-128/cars", 5e-6, 100, 1, 1e-2, 1, None, None, False),
        ("dino-s-384/sop", 5e-6, 150, 5, 1e-4, 100, None, None, False),
    ],
)
def test_published_settings(
    name: str, lr: float, epochs: int, warmup: int, decay: float, head: float,
    step: int | None, factor: float | None, frozen: bool,
) -> None:  # fmt: skip
    r = recipe.load(f"paper/{name}")
    assert (r.lr, r.epochs, r.warmup_epochs, r.weight_decay) == (lr, epochs, warmup, decay)
    assert (r.head_lr_factor, r.freeze_batch_norm) == (head, frozen)
    assert r.schedule == ("step" if step else "constant")
    if step:
        assert (r.lr_step, r.lr_decay, r.pooling, r.crop_scale_min) == (
            step,
            factor,
            "avgmax",
            0.08,
        )
    common = (r.loss, r.hier_weight, r.num_proxies, r.c, r.clip_radius, r.margin, r.temperature)
    assert common == ("proxy-anchor", 0.5, 512, 0.1, 2.3, 0.1, 0.1)
    assert (r.num_neighbours, r.triplets_per_anchor, r.batch_size, r.samples_per_class) == (
        20,
        50,
        180,
        2,
    )
    assert (r.proxy_lr_factor, r.class_proxy_lr_factor) == (50, 10_000)


def test_a_dumped_recipe_reads_back(tmp_path: Path) -> None:
    original = recipe.load("fast", {"seed": 7, "weights": 'a"b\\c', "freeze_batch_norm": False})
    (tmp_path / "r.toml").write_text(recipe.dump(original))
    assert recipe.load(str(tmp_path / "r.toml")) == original


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ({"c": 0.0}, "c to be a number above 0"),
        ({"epochs": 1.5}, "of type int"),
        ({"loss": "x"}, "one of proxy-anchor"),
        ({"batch_size": 9}, "multiple of"),
        ({"freeze_batch_norm": 1}, "of type bool"),
        ({"lr": float("nan")}, "finite"),
        ({"seed": 2**63}, "below"),
        ({"curv": 1}, "unknown setting curv"),
        ({"validation_share": 1.0}, "below 1"),
        ({"initial_radius": 2.3}, "below the clip_radius"),
        ({"head_whitening": 1.5}, "between 0 and 1"),
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


def test_published_faults_are_the_paper_recipes_alone() -> None:
    for name in recipe.names():
        settings = recipe.load(name)
        expected = (True, 1e-4, 0.0) if name.startswith("paper/") else (False, 1e-8, 0.15)
        found = (settings.published_faults, settings.adam_eps, settings.validation_share)
        assert found == expected, name


def test_fast_is_the_default_made_smaller() -> None:
    ours, small = recipe.load(recipe.DEFAULT).to_dict(), recipe.load("fast").to_dict()
    apart = {key for key, value in ours.items() if small[key] != value}
    assert apart == {"train_size", "eval_size", "epochs", "cache"}
