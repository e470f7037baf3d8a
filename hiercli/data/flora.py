"""How a plant of the made-up flora looks, and how it is photographed.

A species is a row of numbers (`Traits`). `photograph` draws one individual of it in one random
pose, before one random background and under one random light; the generator it is handed is the
only source of chance, so any picture can be drawn alone.

Geometry: a flower head lives in its own frame, in which petals reach from the origin to radius 1
and ``z`` points to the viewer. `Pose` projects that frame onto the canvas. Colours are float RGB
arrays (3,) in [0, 255].
"""

import colorsys
from dataclasses import dataclass, field, fields, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Array = NDArray[np.float64]

# Plants are drawn this many times larger and scaled down, since Pillow draws without antialiasing.
SUPERSAMPLING = 2


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


@dataclass(frozen=True)
class Pose:
    """How one flower head stands before the camera.

    Attributes:
        centre: (2,) canvas pixels.
        radius: canvas pixels to a unit of the head's frame.
        rotation: (3, 3) orthogonal, the head's frame to the camera's.
    """

    centre: Array
    radius: float
    rotation: Array

    @staticmethod
    def facing(centre: Array, radius: float, roll: float, tilt: float, away: float) -> "Pose":
        """A head rolled by ``roll`` and leaning by ``tilt`` towards ``away``, all in radians."""
        lean = np.array(
            [
                [np.cos(tilt), 0.0, np.sin(tilt)],
                [0.0, 1.0, 0.0],
                [-np.sin(tilt), 0.0, np.cos(tilt)],
            ]
        )
        return Pose(centre, radius, _turn(away) @ lean @ _turn(roll - away))

    def project(self, points: Array) -> Array:
        """Points (..., 3) of the head's frame to canvas pixels (..., 2), with mild perspective."""
        turned = points @ self.rotation.T
        nearness = 1.0 + 0.18 * turned[..., 2:]
        return np.asarray(self.centre + self.radius * nearness * turned[..., :2])


def photograph(traits: Traits, generator: np.random.Generator, size: int = 160) -> Image.Image:
    """Draw one photograph of one plant.

    Args:
        traits: of its species.
        generator: source of everything that differs from photo to photo.
        size: width and height in pixels.

    Returns:
        an RGB picture (size, size).
    """
    ground = _background(generator, size)
    layer = Image.new("RGBA", (size * SUPERSAMPLING, size * SUPERSAMPLING), (0, 0, 0, 0))
    _draw_plant(ImageDraw.Draw(layer), traits, generator, float(size * SUPERSAMPLING))
    plant = layer.resize((size, size), Image.Resampling.LANCZOS)
    ground.paste((12, 16, 20), _shadow(plant, generator))
    ground.paste(plant, (0, 0), plant)
    blurred = ground.filter(ImageFilter.GaussianBlur(generator.uniform(0.2, 1.2) * size / 160))
    return _develop(blurred, generator)


# ---------------------------------------------------------------------------------------- colour


def _rgb(hue: float, saturation: float, value: float) -> Array:
    """HSV (degrees, [0, 1], [0, 1]; clipped into range) as RGB (3,) in [0, 255]."""
    channels = colorsys.hsv_to_rgb(
        hue % 360.0 / 360.0, min(max(saturation, 0.0), 1.0), min(max(value, 0.0), 1.0)
    )
    return 255.0 * np.array(channels)


def _mix(first: Array, second: Array, share: float | Array) -> Array:
    """``first`` with ``share`` in [0, 1] of ``second``."""
    return np.asarray(first + (second - first) * share)


def _ink(colour: Array) -> tuple[int, int, int]:
    red, green, blue = colour.tolist()
    return _byte(red), _byte(green), _byte(blue)


def _byte(level: float) -> int:
    return int(min(max(level, 0.0), 255.0))


def _flat(points: Array) -> list[float]:
    """Points (N, 2) as the flat list that Pillow draws fastest."""
    flat: list[float] = points.ravel().tolist()
    return flat


# ------------------------------------------------------------------------------------- the plant


def _turn(angle: float) -> Array:
    """Rotation (3, 3) by ``angle`` about the viewing axis."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])


def _draw_plant(
    draw: ImageDraw.ImageDraw, traits: Traits, generator: np.random.Generator, side: float
) -> None:
    """One individual: stems and leaves first, then its heads, the main one last and largest."""
    num_heads = max(1, round(traits.heads))
    radius = side * generator.uniform(0.23, 0.38) * (1.0, 0.8, 0.72)[num_heads - 1]
    centre = side * (np.array([0.5, 0.43]) + generator.normal(0.0, 0.055, 2))
    lean = generator.normal(0.0, 0.3)
    down = np.array([np.sin(lean), np.cos(lean)])
    light = generator.uniform(0.0, 2.0 * np.pi)
    others = []
    for side_sign in (1.0, -1.0)[: num_heads - 1]:
        aside = np.array([side_sign * generator.uniform(1.05, 1.5), generator.uniform(-0.7, 0.9)])
        others.append(centre + radius * aside)
    fork = centre + down * radius * 2.2
    stem_colour = _rgb(traits.leaf_hue - 6.0, 0.6, 0.85 * traits.leaf_value)
    width = max(2, round(traits.stem_width * radius))
    for start in [*others, centre]:
        bend = (start + fork) / 2.0 + radius * generator.normal(0.0, 0.12, 2)
        curve = _curve(start, bend, fork)
        draw.line(_flat(curve), fill=_ink(stem_colour), width=width, joint="curve")
    foot = fork + down * side
    draw.line(_flat(np.stack([fork, foot])), fill=_ink(stem_colour), width=round(width * 1.2))
    _draw_leaves(draw, traits, generator, centre, down, radius)
    tilt = np.deg2rad(abs(generator.normal(0.0, 26.0)))
    away = generator.uniform(0.0, 2.0 * np.pi)
    for position in [*others, centre]:
        scale = 1.0 if position is centre else generator.uniform(0.6, 0.85)
        pose = Pose.facing(
            position,
            radius * scale,
            generator.uniform(0.0, 2.0 * np.pi),
            min(tilt + abs(generator.normal(0.0, 0.12)), 1.0),
            away + generator.normal(0.0, 0.3),
        )
        _draw_head(draw, traits, generator, pose, light)


def _curve(start: Array, bend: Array, end: Array) -> Array:
    """A quadratic curve as points (12, 2)."""
    t = np.linspace(0.0, 1.0, 12)[:, None]
    return np.asarray((1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end)


def _draw_leaves(
    draw: ImageDraw.ImageDraw,
    traits: Traits,
    generator: np.random.Generator,
    centre: Array,
    down: Array,
    radius: float,
) -> None:
    """Leaves left and right along the stem, with teeth, a midrib and side veins."""
    colour = _rgb(traits.leaf_hue, 0.62, traits.leaf_value)
    teeth = max(0, round(traits.leaf_teeth))
    along = np.linspace(0.0, 1.0, 29)
    half = traits.leaf_width * np.sin(np.pi * along**0.85) ** 0.9
    half = half * (1.0 - 0.32 * (along * (teeth + 0.5) % 1.0)) if teeth else half
    for index in range(max(1, round(traits.leaf_count))):
        sign = 1.0 if index % 2 else -1.0
        base = centre + down * radius * (0.55 + 0.3 * index + generator.uniform(-0.1, 0.1))
        angle = np.arctan2(-down[1], -down[0]) + sign * generator.uniform(0.95, 1.65)
        axis = np.array([np.cos(angle), np.sin(angle)])
        length = radius * generator.uniform(1.25, 1.7)
        across = np.array([-axis[1], axis[0]]) * length * generator.uniform(0.75, 1.0)
        droop = np.array([0.0, 0.22 * length]) * (along**2)[:, None]
        rib = base + along[:, None] * axis * length + droop
        for edge, shade in ((1.0, 0.88), (-1.0, 1.06)):
            outline = rib + edge * half[:, None] * across
            body = np.concatenate([rib, outline[::-1]])
            draw.polygon(_flat(body), fill=_ink(colour * shade))
            for at in range(5, 24, 4):
                vein = np.stack([rib[at], rib[at + 3] + 0.8 * (outline[at + 3] - rib[at + 3])])
                draw.line(_flat(vein), fill=_ink(colour * shade * 0.86), width=1)
        draw.line(_flat(rib[:27]), fill=_ink(_mix(colour, np.full(3, 235.0), 0.3)), width=2)


@dataclass(frozen=True)
class _Petal:
    """The surface of one petal (or sepal) in the head's frame.

    Attributes:
        angle: direction, radians.
        length: reach of its tip.
        half_width: at the belly.
        belly: where along it is widest.
        tip: -1 notched, 0 round, 1 pointed.
        cup: rise towards the viewer.
    """

    angle: float
    length: float
    half_width: float
    belly: float
    tip: float
    cup: float

    def points(self, along: Array, across: Array) -> Array:
        """Surface points (..., 3) at ``along`` in [0, 1] (base to tip), ``across`` in [-1, 1]."""
        fall = 0.36 + 0.55 * max(self.tip, 0.0)
        rise = fall * self.belly / (1.0 - self.belly)
        profile = (along / self.belly) ** rise * ((1.0 - along) / (1.0 - self.belly)) ** fall
        notch = 0.3 * max(-self.tip, 0.0) * (1.0 - np.abs(across)) * along**4
        reach = self.length * (0.06 + 0.94 * along * (1.0 - notch))
        aside = across * self.half_width * profile
        height = self.cup * reach**2 - 0.25 * self.half_width * np.abs(across) * profile
        cosine, sine = np.cos(self.angle), np.sin(self.angle)
        flat = (reach * cosine - aside * sine, reach * sine + aside * cosine, height)
        return np.stack(np.broadcast_arrays(*flat), axis=-1)


# Places of the first nine spots of a petal (along, across): spread, not on a grid.
_SPOTS = np.array(
    [
        [0.50, 0.00],
        [0.66, 0.42],
        [0.66, -0.42],
        [0.36, 0.35],
        [0.36, -0.35],
        [0.82, 0.00],
        [0.52, 0.68],
        [0.52, -0.68],
        [0.24, 0.00],
    ]
)


def _draw_head(
    draw: ImageDraw.ImageDraw,
    traits: Traits,
    generator: np.random.Generator,
    pose: Pose,
    light: float,
) -> None:
    """One flower head: sepals, whorls of petals from the outermost in, disc and stamens."""
    count = max(3, round(traits.petal_count))
    spacing = 2.0 * np.pi / count
    width = min(0.8 * traits.petal_width * np.tan(min(spacing / 2.0, 0.75)), 0.55)
    sepal_colour = _rgb(traits.leaf_hue, 0.55, 0.95 * traits.leaf_value)
    for angle in (np.arange(count) + 0.5) * spacing:
        sepal = _Petal(angle, traits.sepal_length, min(0.5 * width, 0.13), 0.45, 1.0, 0.0)
        _draw_bands(draw, sepal, pose, light, np.tile(sepal_colour, (4, 1)))
    body = _individual_colour(traits, generator)
    marking = _rgb(
        traits.petal_hue + traits.marking_hue,
        0.25 + 0.75 * max(traits.petal_saturation, 0.45),
        traits.marking_value,
    )
    for whorl in range(max(1, round(traits.whorls))):
        for index in range(count):
            petal = _Petal(
                (index + 0.5 * whorl) * spacing + generator.normal(0.0, 0.06) * spacing,
                (1.0 - 0.32 * whorl) * generator.normal(1.0, 0.035),
                width * (1.0 - 0.25 * whorl) * generator.normal(1.0, 0.06),
                traits.petal_belly,
                traits.petal_tip,
                traits.petal_cup + 0.25 * whorl,
            )
            _draw_petal(draw, traits, petal, pose, light, body, marking)
    _draw_disc(draw, traits, pose, light)


def _individual_colour(traits: Traits, generator: np.random.Generator) -> Array:
    """The petal colour of one plant, a little off its species' own."""
    return _rgb(
        traits.petal_hue + generator.normal(0.0, 3.0),
        traits.petal_saturation + generator.normal(0.0, 0.025),
        traits.petal_value + generator.normal(0.0, 0.02),
    )


def _draw_bands(
    draw: ImageDraw.ImageDraw, petal: _Petal, pose: Pose, light: float, colours: Array
) -> None:
    """Fill a petal from base to tip in bands of ``colours`` (B, 3), its two halves shaded apart."""
    num = len(colours)
    along = np.sin(np.linspace(0.0, 0.5 * np.pi, num + 1))[:, None]
    across = np.array([-1.0, 0.0, 1.0])
    # Bands bow towards the tip, so that an eye ends in a scallop and not in a straight cut.
    bowed = along - 0.12 * across**2 * np.sin(np.pi * along)
    grid = pose.project(petal.points(bowed, across))
    glow = 1.0 + 0.10 * np.cos(petal.angle - light)
    depth = 0.74 + 0.26 * np.minimum(1.0, np.arange(1, num + 1) / (0.45 * num))
    for half, ridge in ((0, -0.03), (1, 0.03)):
        left, right = grid[:, half], grid[:, half + 1]
        quads = np.concatenate([left[:-1], right[:-1], right[1:], left[1:]], axis=1).tolist()
        shaded = np.clip(colours * (glow * depth + ridge)[:, None], 0.0, 255.0).astype(int)
        for quad, ink in zip(quads, map(tuple, shaded.tolist()), strict=True):
            draw.polygon(quad, fill=ink)


def _draw_petal(
    draw: ImageDraw.ImageDraw,
    traits: Traits,
    petal: _Petal,
    pose: Pose,
    light: float,
    body: Array,
    marking: Array,
) -> None:
    """One petal: its edge, its body from base to tip, then stripe, veins and spots on top."""
    num_bands = 12

    def place(along: Array, across: Array) -> Array:
        return pose.project(petal.points(along, across))

    ramp = np.sin(np.linspace(0.0, 0.5 * np.pi, 11))
    edge = place(np.concatenate([ramp, ramp[-2::-1]]), np.repeat([1.0, -1.0], [11, 10]))
    rim = traits.rim if traits.rim > 0.04 else 0.0
    draw.polygon(_flat(edge), fill=_ink(marking if rim else body * 0.8))
    middle = np.sin((np.arange(num_bands) + 0.5) / num_bands * 0.5 * np.pi)
    end = np.full(3, 250.0) if traits.tip_fade > 0.0 else body * 0.35
    colours = _mix(body, end, abs(traits.tip_fade) * middle[:, None] ** 2)
    eye = np.clip((traits.eye - middle) / 0.1 + 0.5, 0.0, 1.0) * (traits.eye > 0.06)
    colours = _mix(colours, marking, 0.9 * eye[:, None])
    inner = replace(
        petal, length=petal.length * (1.0 - 0.4 * rim), half_width=petal.half_width * (1.0 - rim)
    )
    _draw_bands(draw, inner, pose, light, colours)
    if not rim:
        draw.line(_flat(edge), fill=_ink(body * 0.72), width=1)
    along = np.linspace(0.06, 0.86, 8)
    if traits.stripe > 0.03:
        half = traits.stripe * (1.0 - 0.6 * along)
        outline = np.concatenate([place(along, half), place(along, -half)[::-1]])
        draw.polygon(_flat(outline), fill=_ink(marking))
    vein_ink, vein_width = _ink(_mix(body, marking, 0.85)), max(1, round(pose.radius / 60))
    for across in np.linspace(-0.72, 0.72, round(max(traits.veins, 0.0))):
        line = place(along, across * (0.35 + 0.65 * along))
        draw.line(_flat(line), fill=vein_ink, width=vein_width)
    for along_spot, across_spot in _SPOTS[: max(0, round(traits.spots))]:
        x, y = place(np.array(along_spot), np.array(across_spot)).tolist()
        reach = pose.radius * 0.1 * petal.half_width**0.5
        draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=_ink(marking))


def _draw_disc(draw: ImageDraw.ImageDraw, traits: Traits, pose: Pose, light: float) -> None:
    """The domed centre with its florets, and the stamens around it."""
    colour = _rgb(traits.disc_hue, 0.8, traits.disc_value)
    circle = np.linspace(0.0, 2.0 * np.pi, 25)[:-1]
    lit = np.array([np.cos(light), np.sin(light)]) * 0.04 * pose.radius
    num_stamens = max(0, round(traits.stamens))
    for angle in np.arange(num_stamens) * 2.0 * np.pi / max(num_stamens, 1):
        direction = np.array([np.cos(angle), np.sin(angle)])
        reach = np.array([traits.disc_radius, traits.disc_radius + 0.17])[:, None] * direction
        stalk = pose.project(np.concatenate([reach, [[0.1], [0.2]]], axis=1))
        draw.line(_flat(stalk), fill=_ink(_mix(colour, np.full(3, 245.0), 0.5)), width=2)
        x, y = stalk[1].tolist()
        dot = 0.032 * pose.radius
        draw.ellipse((x - dot, y - dot, x + dot, y + dot), fill=_ink(colour * 0.85))
    for share, shade in ((1.0, 0.68), (0.86, 0.88), (0.6, 1.02), (0.3, 1.1)):
        ring = traits.disc_radius * share * np.stack([np.cos(circle), np.sin(circle)], axis=1)
        height = np.full((len(circle), 1), 0.12 * (1.0 - share) + 0.05)
        dome = pose.project(np.concatenate([ring, height], axis=1)) + lit * (1.0 - share)
        draw.polygon(_flat(dome), fill=_ink(colour * shade))
    order = np.arange(1, 3 + round(90 * traits.disc_radius))
    spiral = order * 2.39996  # the golden angle, as in a sunflower
    reach = traits.disc_radius * 0.9 * np.sqrt(order / len(order))
    seeds = np.stack([reach * np.cos(spiral), reach * np.sin(spiral), 0.1 - 0.2 * reach], axis=1)
    dot = max(1.0, 0.014 * pose.radius)
    for (x, y), rank in zip(pose.project(seeds).tolist(), order.tolist(), strict=True):
        ink = _ink(colour * (0.72 if rank % 2 else 1.25))
        draw.ellipse((x - dot, y - dot, x + dot, y + dot), fill=ink)


# -------------------------------------------------------------------------------- the photograph

# Two tones each, top and bottom: meadow, bare soil, sky over grass, forest shade, stone, dry grass.
_GROUNDS = np.array(
    [
        [[96, 132, 66], [58, 92, 40]],
        [[128, 106, 82], [84, 66, 50]],
        [[168, 196, 220], [112, 140, 84]],
        [[44, 58, 42], [22, 32, 24]],
        [[160, 158, 150], [110, 108, 104]],
        [[190, 172, 122], [134, 116, 74]],
    ],
    dtype=np.float64,
)


def _background(generator: np.random.Generator, size: int) -> Image.Image:
    """What lies behind the plant: a ground, far clutter out of focus, near clutter less so."""
    top, bottom = _GROUNDS[generator.integers(len(_GROUNDS))] + generator.normal(0.0, 10.0, (2, 3))
    ramp = np.linspace(0.0, 1.0, size)[:, None]
    column = np.clip(_mix(top, bottom, ramp), 0, 255).astype(np.uint8)
    picture = Image.fromarray(np.repeat(column[:, None], size, axis=1))
    for blur in (generator.uniform(0.025, 0.05), generator.uniform(0.004, 0.016)):
        draw = ImageDraw.Draw(picture)
        for _ in range(generator.integers(5, 13)):
            _draw_clutter(draw, generator, float(size))
        picture = picture.filter(ImageFilter.GaussianBlur(blur * size))
    return picture


def _draw_clutter(draw: ImageDraw.ImageDraw, generator: np.random.Generator, size: float) -> None:
    """One thing that is not the subject: a blade of grass, a leaf, a pebble or another flower."""
    x, y = generator.uniform(-0.05, 1.05, 2) * size
    kind = generator.choice(["blade", "leaf", "pebble", "flower"], p=[0.45, 0.25, 0.15, 0.15])
    green = _rgb(*generator.uniform([60.0, 0.3, 0.25], [140.0, 0.7, 0.75]))
    if kind == "blade":
        tip = np.array([x, y]) + size * generator.normal([0.0, -0.3], [0.2, 0.15])
        foot = np.array([x, size * 1.05])
        broad = np.array([size * generator.uniform(0.008, 0.02), 0.0])
        draw.polygon(_flat(np.stack([foot - broad, tip, foot + broad])), fill=_ink(green))
    elif kind == "leaf":
        axis = generator.normal(0.0, 0.14, 2) * size
        across = np.array([-axis[1], axis[0]]) * generator.uniform(0.2, 0.5)
        t = np.linspace(0.0, np.pi, 8)[:, None]
        sides = [axis * np.cos(t) + sign * across * np.sin(t) ** 1.3 for sign in (1.0, -1.0)]
        outline = np.array([x, y]) + np.concatenate([sides[0], sides[1][::-1]])
        draw.polygon(_flat(outline), fill=_ink(green))
    elif kind == "pebble":
        wide, high = size * generator.uniform(0.03, 0.1, 2) * (1.0, 0.7)
        grey = _rgb(generator.uniform(20, 60), 0.15, generator.uniform(0.35, 0.8))
        draw.ellipse((x - wide, y - high, x + wide, y + high), fill=_ink(grey))
    else:
        bright = _rgb(generator.uniform(195, 418), generator.uniform(0.1, 0.9), 0.9)
        reach = size * generator.uniform(0.03, 0.07)
        for angle in generator.uniform(0.0, 6.3) + np.arange(5) * 1.2566:
            u, v = x + reach * np.cos(angle), y + reach * np.sin(angle)
            box = (u - 0.7 * reach, v - 0.7 * reach, u + 0.7 * reach, v + 0.7 * reach)
            draw.ellipse(box, fill=_ink(bright))


def _shadow(plant: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Mask (L) of the soft shadow that the plant throws on what lies behind it."""
    size = plant.width
    small = plant.getchannel("A").reduce(4)
    reach = small.width * 0.05
    dx, dy = generator.normal(0.0, reach), generator.uniform(0.2, 1.6) * reach
    moved = small.transform(small.size, Image.Transform.AFFINE, (1, 0, -dx, 0, 1, -dy))
    soft = moved.filter(ImageFilter.GaussianBlur(small.width * 0.03))
    strength = generator.uniform(0.25, 0.6)
    return soft.point(lambda level: level * strength).resize((size, size))


def _develop(picture: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Light and sensor: a shade across the picture, vignette, colour cast, exposure, noise."""
    pixels = np.asarray(picture, dtype=np.float32) / 255.0
    axis = np.linspace(-1.0, 1.0, picture.width, dtype=np.float32)
    x, y = axis[None, :], axis[:, None]
    direction = generator.uniform(0.0, 2.0 * np.pi)
    slope = np.float32(np.cos(direction)) * x + np.float32(np.sin(direction)) * y
    edge = generator.uniform(-0.6, 1.2)
    shade = 1.0 - generator.uniform(0.0, 0.4) / (1.0 + np.exp((edge - slope) * 6.0))
    vignette = 1.0 - generator.uniform(0.0, 0.22) * (x**2 + y**2)
    warmth, tint, exposure = generator.normal([0.0, 0.0, 0.0], [0.085, 0.025, 0.18])
    gains = np.exp(np.array([warmth, tint, -warmth]) + exposure).astype(np.float32)
    exposed = pixels * (shade * vignette).astype(np.float32)[..., None] * gains
    # A shoulder, so that bright petals roll off instead of clipping to one flat white.
    toned = exposed / (1.0 + exposed**6) ** np.float32(1.0 / 6.0)
    sigma = np.float32(generator.uniform(0.006, 0.026))
    noisy = toned + sigma * generator.standard_normal(toned.shape, dtype=np.float32)
    return Image.fromarray((np.clip(noisy, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8))
