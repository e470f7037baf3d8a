"""All of a photograph but the plant: the ground and clutter behind it, its shadow, the camera."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from hiercli.data.paint import flat, ink, mix, rgb

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


def background(generator: np.random.Generator, size: int) -> Image.Image:
    """What lies behind the plant: a ground, far clutter out of focus, near clutter less so."""
    top, bottom = _GROUNDS[generator.integers(len(_GROUNDS))] + generator.normal(0.0, 10.0, (2, 3))
    ramp = np.linspace(0.0, 1.0, size)[:, None]
    column = np.clip(mix(top, bottom, ramp), 0, 255).astype(np.uint8)
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
    green = rgb(*generator.uniform([60.0, 0.3, 0.25], [140.0, 0.7, 0.75]))
    if kind == "blade":
        tip = np.array([x, y]) + size * generator.normal([0.0, -0.3], [0.2, 0.15])
        foot = np.array([x, size * 1.05])
        broad = np.array([size * generator.uniform(0.008, 0.02), 0.0])
        draw.polygon(flat(np.stack([foot - broad, tip, foot + broad])), fill=ink(green))
    elif kind == "leaf":
        axis = generator.normal(0.0, 0.14, 2) * size
        across = np.array([-axis[1], axis[0]]) * generator.uniform(0.2, 0.5)
        t = np.linspace(0.0, np.pi, 8)[:, None]
        sides = [axis * np.cos(t) + sign * across * np.sin(t) ** 1.3 for sign in (1.0, -1.0)]
        outline = np.array([x, y]) + np.concatenate([sides[0], sides[1][::-1]])
        draw.polygon(flat(outline), fill=ink(green))
    elif kind == "pebble":
        wide, high = size * generator.uniform(0.03, 0.1, 2) * (1.0, 0.7)
        grey = rgb(generator.uniform(20, 60), 0.15, generator.uniform(0.35, 0.8))
        draw.ellipse((x - wide, y - high, x + wide, y + high), fill=ink(grey))
    else:
        bright = rgb(generator.uniform(195, 418), generator.uniform(0.1, 0.9), 0.9)
        reach = size * generator.uniform(0.03, 0.07)
        for angle in generator.uniform(0.0, 6.3) + np.arange(5) * 1.2566:
            u, v = x + reach * np.cos(angle), y + reach * np.sin(angle)
            box = (u - 0.7 * reach, v - 0.7 * reach, u + 0.7 * reach, v + 0.7 * reach)
            draw.ellipse(box, fill=ink(bright))


def shadow(plant: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Mask (L) of the soft shadow that the plant throws on what lies behind it."""
    size = plant.width
    small = plant.getchannel("A").reduce(4)
    reach = small.width * 0.05
    dx, dy = generator.normal(0.0, reach), generator.uniform(0.2, 1.6) * reach
    moved = small.transform(small.size, Image.Transform.AFFINE, (1, 0, -dx, 0, 1, -dy))
    soft = moved.filter(ImageFilter.GaussianBlur(small.width * 0.03))
    strength = generator.uniform(0.25, 0.6)
    return soft.point(lambda level: level * strength).resize((size, size))


def develop(picture: Image.Image, generator: np.random.Generator) -> Image.Image:
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
