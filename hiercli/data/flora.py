"""Draw a plant of the made-up flora and photograph it.

`photograph` draws one individual of a species in one random pose, before one random background
and under one random light; the generator it is handed is the only source of chance, so any
picture can be drawn alone.

Geometry: a flower head lives in its own frame, in which petals reach from the origin to radius 1
and ``z`` points to the viewer. `Pose` projects that frame onto the canvas. Colours are float RGB
arrays (3,) in [0, 255].
"""

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from hiercli.data.paint import flat, ink, mix, rgb
from hiercli.data.scenery import background, develop, shadow
from hiercli.data.traits import Array, Traits

# Plants are drawn this many times larger and scaled down, since Pillow draws without antialiasing.
SUPERSAMPLING = 2


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
    ground = background(generator, size)
    layer = Image.new("RGBA", (size * SUPERSAMPLING, size * SUPERSAMPLING), (0, 0, 0, 0))
    _draw_plant(ImageDraw.Draw(layer), traits, generator, float(size * SUPERSAMPLING))
    plant = layer.resize((size, size), Image.Resampling.LANCZOS)
    ground.paste((12, 16, 20), shadow(plant, generator))
    ground.paste(plant, (0, 0), plant)
    blurred = ground.filter(ImageFilter.GaussianBlur(generator.uniform(0.2, 1.2) * size / 160))
    return develop(blurred, generator)


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
    stem_colour = rgb(traits.leaf_hue - 6.0, 0.6, 0.85 * traits.leaf_value)
    width = max(2, round(traits.stem_width * radius))
    for start in [*others, centre]:
        bend = (start + fork) / 2.0 + radius * generator.normal(0.0, 0.12, 2)
        curve = _curve(start, bend, fork)
        draw.line(flat(curve), fill=ink(stem_colour), width=width, joint="curve")
    foot = fork + down * side
    draw.line(flat(np.stack([fork, foot])), fill=ink(stem_colour), width=round(width * 1.2))
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
    colour = rgb(traits.leaf_hue, 0.62, traits.leaf_value)
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
            draw.polygon(flat(body), fill=ink(colour * shade))
            for at in range(5, 24, 4):
                vein = np.stack([rib[at], rib[at + 3] + 0.8 * (outline[at + 3] - rib[at + 3])])
                draw.line(flat(vein), fill=ink(colour * shade * 0.86), width=1)
        draw.line(flat(rib[:27]), fill=ink(mix(colour, np.full(3, 235.0), 0.3)), width=2)


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
        surface = (reach * cosine - aside * sine, reach * sine + aside * cosine, height)
        return np.stack(np.broadcast_arrays(*surface), axis=-1)


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
    sepal_colour = rgb(traits.leaf_hue, 0.55, 0.95 * traits.leaf_value)
    for angle in (np.arange(count) + 0.5) * spacing:
        sepal = _Petal(angle, traits.sepal_length, min(0.5 * width, 0.13), 0.45, 1.0, 0.0)
        _draw_bands(draw, sepal, pose, light, np.tile(sepal_colour, (4, 1)))
    body = _individual_colour(traits, generator)
    marking = rgb(
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
    return rgb(
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
        for quad, fill in zip(quads, map(tuple, shaded.tolist()), strict=True):
            draw.polygon(quad, fill=fill)


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
    draw.polygon(flat(edge), fill=ink(marking if rim else body * 0.8))
    middle = np.sin((np.arange(num_bands) + 0.5) / num_bands * 0.5 * np.pi)
    end = np.full(3, 250.0) if traits.tip_fade > 0.0 else body * 0.35
    colours = mix(body, end, abs(traits.tip_fade) * middle[:, None] ** 2)
    eye = np.clip((traits.eye - middle) / 0.1 + 0.5, 0.0, 1.0) * (traits.eye > 0.06)
    colours = mix(colours, marking, 0.9 * eye[:, None])
    inner = replace(
        petal, length=petal.length * (1.0 - 0.4 * rim), half_width=petal.half_width * (1.0 - rim)
    )
    _draw_bands(draw, inner, pose, light, colours)
    if not rim:
        draw.line(flat(edge), fill=ink(body * 0.72), width=1)
    along = np.linspace(0.06, 0.86, 8)
    if traits.stripe > 0.03:
        half = traits.stripe * (1.0 - 0.6 * along)
        outline = np.concatenate([place(along, half), place(along, -half)[::-1]])
        draw.polygon(flat(outline), fill=ink(marking))
    vein_ink, vein_width = ink(mix(body, marking, 0.85)), max(1, round(pose.radius / 60))
    for across in np.linspace(-0.72, 0.72, round(max(traits.veins, 0.0))):
        line = place(along, across * (0.35 + 0.65 * along))
        draw.line(flat(line), fill=vein_ink, width=vein_width)
    for along_spot, across_spot in _SPOTS[: max(0, round(traits.spots))]:
        x, y = place(np.array(along_spot), np.array(across_spot)).tolist()
        reach = pose.radius * 0.1 * petal.half_width**0.5
        draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=ink(marking))


def _draw_disc(draw: ImageDraw.ImageDraw, traits: Traits, pose: Pose, light: float) -> None:
    """The domed centre with its florets, and the stamens around it."""
    colour = rgb(traits.disc_hue, 0.8, traits.disc_value)
    circle = np.linspace(0.0, 2.0 * np.pi, 25)[:-1]
    lit = np.array([np.cos(light), np.sin(light)]) * 0.04 * pose.radius
    num_stamens = max(0, round(traits.stamens))
    for angle in np.arange(num_stamens) * 2.0 * np.pi / max(num_stamens, 1):
        direction = np.array([np.cos(angle), np.sin(angle)])
        reach = np.array([traits.disc_radius, traits.disc_radius + 0.17])[:, None] * direction
        stalk = pose.project(np.concatenate([reach, [[0.1], [0.2]]], axis=1))
        draw.line(flat(stalk), fill=ink(mix(colour, np.full(3, 245.0), 0.5)), width=2)
        x, y = stalk[1].tolist()
        dot = 0.032 * pose.radius
        draw.ellipse((x - dot, y - dot, x + dot, y + dot), fill=ink(colour * 0.85))
    for share, shade in ((1.0, 0.68), (0.86, 0.88), (0.6, 1.02), (0.3, 1.1)):
        ring = traits.disc_radius * share * np.stack([np.cos(circle), np.sin(circle)], axis=1)
        height = np.full((len(circle), 1), 0.12 * (1.0 - share) + 0.05)
        dome = pose.project(np.concatenate([ring, height], axis=1)) + lit * (1.0 - share)
        draw.polygon(flat(dome), fill=ink(colour * shade))
    order = np.arange(1, 3 + round(90 * traits.disc_radius))
    spiral = order * 2.39996  # the golden angle, as in a sunflower
    reach = traits.disc_radius * 0.9 * np.sqrt(order / len(order))
    seeds = np.stack([reach * np.cos(spiral), reach * np.sin(spiral), 0.1 - 0.2 * reach], axis=1)
    dot = max(1.0, 0.014 * pose.radius)
    for (x, y), rank in zip(pose.project(seeds).tolist(), order.tolist(), strict=True):
        fill = ink(colour * (0.72 if rank % 2 else 1.25))
        draw.ellipse((x - dot, y - dot, x + dot, y + dot), fill=fill)
