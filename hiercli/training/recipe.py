"""Recipes: all settings of a training run, shipped under a name or read from a TOML file."""

import dataclasses
import difflib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Self

from hiercli.errors import InputError
from hiercli.files import read_text
from hiercli.training.settings import (
    Data,
    Hierarchy,
    Loss,
    Machine,
    Model,
    Optimiser,
    Run,
)

DEFAULT = "hier"
_LARGEST_FILE = 2**15
"""Bytes of a recipe."""


@dataclass(frozen=True)
class Recipe:
    """All settings of a run, in groups.

    A setting has a name of its own among all of them, so `of`, `replace` and the flags of
    `hier train` need no group.

    Examples:
        >>> recipe = Recipe.of(epochs=3, lr=1e-4)
        >>> recipe.run.epochs, recipe.model.c
        (3, 0.1)
        >>> recipe.replace(c=1.0).model.c
        1.0
    """

    data: Data = field(default_factory=Data)
    run: Run = field(default_factory=Run)
    model: Model = field(default_factory=Model)
    loss: Loss = field(default_factory=Loss)
    hierarchy: Hierarchy = field(default_factory=Hierarchy)
    optimiser: Optimiser = field(default_factory=Optimiser)
    machine: Machine = field(default_factory=Machine)

    @classmethod
    def of(cls, **settings: Any) -> Self:
        """The defaults with some settings changed.

        Raises:
            InputError: a setting that there is not, or a value out of range.
        """
        return cls().replace(**settings)

    def replace(self, **settings: Any) -> Self:
        """A copy with some settings changed; raises as `of` does."""
        unknown = sorted(set(settings) - set(_GROUP_OF))
        if unknown:
            near = difflib.get_close_matches(unknown[0], _GROUP_OF, n=3)
            close = f" {unknown[0]} is close to {', '.join(near)}." if near else ""
            raise InputError(
                f"unknown setting {', '.join(unknown)[:200]}.{close} Known settings: "
                f"{', '.join(sorted(_GROUP_OF))}"
            )
        changed: dict[str, dict[str, Any]] = {}
        for name, value in settings.items():
            changed.setdefault(_GROUP_OF[name], {})[name] = value
        groups = {
            group: dataclasses.replace(getattr(self, group), **values)
            for group, values in changed.items()
        }
        return dataclasses.replace(self, **groups)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Plain values by group and name."""
        return dataclasses.asdict(self)


def settings() -> Iterator[tuple[str, "dataclasses.Field[Any]"]]:
    """Each setting with its group, in the order in which they are shown."""
    for group in dataclasses.fields(Recipe):
        for setting in dataclasses.fields(group.type):  # type: ignore[arg-type]
            yield group.name, setting


_GROUP_OF = {setting.name: group for group, setting in settings()}


def names() -> list[str]:
    """Names of the shipped recipes; ``paper/ENCODER/DATA`` is a cell of the published table."""
    found = []
    for file in _shipped().iterdir():
        if file.name.endswith(".toml"):
            name = file.name.removesuffix(".toml")
            cells = tomllib.loads(file.read_text(encoding="utf-8")).get("cell")
            if cells is None:
                found.append(name)
            else:
                found += [f"{name}/{enc}/{data}" for enc in cells for data in cells[enc]]
    return sorted(found)


def load(name: str, overrides: dict[str, Any] | None = None) -> Recipe:
    """A shipped recipe, or one from a TOML file of settings, with ``overrides`` on top.

    Args:
        name: one of `names`, or the path of a ``.toml`` file.
        overrides: settings by name, without their group; they win.

    Raises:
        InputError: unknown recipe or setting, or a value out of range.
    """
    written = _read(name)
    try:
        base = from_dict(written)
    except InputError as error:
        raise InputError(f"recipe {name}: {error}") from error
    return base.replace(**overrides or {})


def from_dict(values: Mapping[str, Any]) -> Recipe:
    """The recipe that `Recipe.to_dict` wrote."""
    return Recipe.of(**_flat(values))


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by name, from tables for each group or, as older files have them, without."""
    flat: dict[str, Any] = {}
    groups = [group.name for group in dataclasses.fields(Recipe)]
    for name, value in values.items():
        own = {name: value}
        if isinstance(value, dict) or (name in groups and name not in _GROUP_OF):
            if name not in groups or not isinstance(value, dict):
                raise InputError(
                    f"expected tables of settings named {', '.join(groups)}, got {name[:40]!r}"
                )
            own = value
            for setting in own:
                if _GROUP_OF.get(setting, name) != name:
                    raise InputError(
                        f"expected {setting} in the group {_GROUP_OF[setting]}, found it in {name}"
                    )
        twice = sorted(flat.keys() & own)
        if twice:
            raise InputError(f"expected each setting once, found {twice[0]} twice")
        flat |= own
    faults = flat.pop("published_faults", False)  # one switch before it was split
    if not isinstance(faults, bool):
        raise InputError(f"expected published_faults to be of type bool, got {faults!r:.80}")
    if faults:
        flat = _PUBLISHED_FAULTS | flat | {"freeze_batch_norm": True}
    return flat


_PUBLISHED_FAULTS = {
    "seeded_sampler": False, "half_precision_loss": True, "self_neighbours": True,
    "own_ancestors": True, "gradients_divided_twice": True,
}  # fmt: skip


def _read(name: str) -> dict[str, Any]:
    if name.endswith(".toml"):
        text = read_text(Path(name), most=_LARGEST_FILE)
        try:
            return tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # numbers too long, brackets too deep
            raise InputError(f"{name} is not valid TOML: {str(error)[:200]}") from error
    if name not in names():
        known = [own for own in names() if "/" not in own]
        near = difflib.get_close_matches(name, names(), n=3)
        raise InputError(
            f"expected a recipe of {', '.join(known)}, a cell of the published table such as "
            f"paper/vit-s-384/cub (hier train --list-recipes), or a path that ends in .toml; got "
            f"{name!r}" + (f", which is close to {', '.join(near)}" if near else "")
        )
    base, *cell = name.split("/")
    settings = tomllib.loads((_shipped() / f"{base}.toml").read_text(encoding="utf-8"))
    if not cell:
        return settings
    encoder, data = cell
    common = settings["common"] | settings["encoder"][encoder]
    return dict(common | settings["data"].get(data, {}) | settings["cell"][encoder][data])


def _shipped() -> Any:
    return resources.files("hiercli.training") / "recipes"


def dump(recipe: Recipe) -> str:
    """The recipe as TOML, each setting under the line that explains it; `load` reads it back."""
    lines: list[str] = []
    for group in dataclasses.fields(recipe):
        lines += [f"[{group.name}]"]
        for setting in dataclasses.fields(group.type):  # type: ignore[arg-type]
            value = getattr(getattr(recipe, group.name), setting.name)
            text = str(value).lower() if isinstance(value, bool) else repr(value)
            if isinstance(value, str):
                text = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
            lines += [f"# {setting.metadata['doc']}", f"{setting.name} = {text}"]
        lines.append("")
    return "\n".join(lines)
