"""What a species of the made-up flora looks like, as a row of numbers."""

from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def _trait(low: float, high: float, *, step: float | None = None, conserved: bool = False) -> float:
    """Declare a trait.

    Args:
        low, high: range of its values.
        step: a difference that the eye sees at once, where sister species may differ in it.
        conserved: whether it changes mostly in the old branches of the tree.
    """
    value: float = field(metadata={"low": low, "high": high, "step": step, "conserved": conserved})
    return value


@dataclass(frozen=True)
class Traits:
    """What a species looks like. Traits that start below zero are absent at zero and below.

    Attributes:
        heads: flower heads on one plant, rounded.
        petal_count: petals of one whorl, rounded.
        whorls: rings of petals, rounded.
        petal_width: half-width of a petal; at 1 neighbours overlap by half.
        petal_tip: -1 notched, 0 round, 1 pointed.
        petal_belly: where along the petal it is widest.
        petal_cup: how far the petals rise towards the viewer.
        petal_hue: degrees, from sky blue over violet, pink and red to yellow; never green.
        petal_saturation, petal_value: the rest of that colour in HSV.
        tip_fade: how far the tips fade to white (positive) or darken (negative).
        veins: dark lines on each petal.
        spots: dots on each petal.
        stripe: half-width of the band down the middle of a petal, in petal half-widths.
        eye: how far from its base the petal carries the marking colour.
        rim: width of the edge in the marking colour, in petal half-widths.
        marking_hue: degrees from the petal's hue to the hue of veins, spots, stripe, eye, rim.
        marking_value: HSV value of the markings, from dark to pale.
        disc_radius: the centre of the head.
        disc_hue, disc_value: its colour, green over yellow to red, dark to bright.
        stamens: stalked dots around the disc.
        sepal_length: reach of the green leaves behind the petals; seen beyond 0.8 or so.
        leaf_count: leaves on the stem, rounded.
        leaf_width: half-width of a leaf, in its lengths.
        leaf_teeth: teeth on either side of a leaf, rounded.
        leaf_hue, leaf_value: their colour, yellow green to blue green, dark to pale.
        stem_width: in radii of the head.
    """

    heads: float = _trait(0.3, 3.2, conserved=True)
    petal_count: float = _trait(2.6, 13.4, step=1.0, conserved=True)
    whorls: float = _trait(0.4, 2.4, conserved=True)
    petal_width: float = _trait(0.42, 1.1, step=0.17)
    petal_tip: float = _trait(-1.0, 1.0, step=0.52)
    petal_belly: float = _trait(0.38, 0.82, step=0.14, conserved=True)
    petal_cup: float = _trait(-0.1, 0.5, conserved=True)
    petal_hue: float = _trait(195.0, 418.0, step=20.0)
    petal_saturation: float = _trait(0.02, 0.95, step=0.22)
    petal_value: float = _trait(0.78, 1.0)
    tip_fade: float = _trait(-0.6, 0.8, step=0.4)
    veins: float = _trait(-5.0, 7.0, step=3.0)
    spots: float = _trait(-9.0, 9.0, step=3.0)
    stripe: float = _trait(-0.35, 0.35, step=0.14)
    eye: float = _trait(-0.4, 0.6, step=0.14)
    rim: float = _trait(-0.4, 0.32, step=0.12)
    marking_hue: float = _trait(-80.0, 80.0)
    marking_value: float = _trait(0.25, 1.0)
    disc_radius: float = _trait(0.1, 0.42, step=0.07, conserved=True)
    disc_hue: float = _trait(5.0, 90.0, step=20.0)
    disc_value: float = _trait(0.25, 1.0, step=0.2)
    stamens: float = _trait(-8.0, 14.0, step=4.0)
    sepal_length: float = _trait(0.5, 1.3, step=0.22)
    leaf_count: float = _trait(1.6, 6.4, conserved=True)
    leaf_width: float = _trait(0.07, 0.36, conserved=True)
    leaf_teeth: float = _trait(-7.0, 7.0, conserved=True)
    leaf_hue: float = _trait(72.0, 165.0)
    leaf_value: float = _trait(0.3, 0.72)
    stem_width: float = _trait(0.05, 0.16, conserved=True)

    @staticmethod
    def from_unit(unit: Array) -> "Traits":
        """Traits from a point of the unit cube (T,), in the order of the fields."""
        return Traits(
            *(
                trait.metadata["low"] + (trait.metadata["high"] - trait.metadata["low"]) * float(x)
                for trait, x in zip(fields(Traits), unit, strict=True)
            )
        )


def visible_steps() -> Array:
    """Visible step of each trait in the unit cube (T,); infinite where sisters never differ."""
    return np.array(
        [
            trait.metadata["step"] / (trait.metadata["high"] - trait.metadata["low"])
            if trait.metadata["step"]
            else np.inf
            for trait in fields(Traits)
        ]
    )


def visible_differences(first: Traits, second: Traits) -> list[str]:
    """Names of the traits in which two species differ by a visible step.

    What the eye cannot tell does not count: a trait that starts below zero is absent there, one
    petal more is not seen among many, and a petal that is nearly white has no hue.
    """
    found = []
    for trait in fields(Traits):
        step = trait.metadata["step"]
        one, other = getattr(first, trait.name), getattr(second, trait.name)
        if trait.metadata["low"] < 0.0 and trait.name not in ("petal_tip", "tip_fade"):
            one, other = max(one, 0.0), max(other, 0.0)
        if trait.name == "petal_count":
            one, other = round(one), round(other)
            if max(one, other) > 8:
                continue
        if trait.name == "petal_hue" and min(first.petal_saturation, second.petal_saturation) < 0.3:
            continue
        if step and abs(one - other) >= step:
            found.append(trait.name)
    return found
