"""Web pages with pictures between their paragraphs: HTML as sites serve it, clutter included."""

from __future__ import annotations

import html
from pathlib import Path

import numpy as np
from PIL import Image

from flamingo_jax.config import WorldConfig
from flamingo_jax.data.world import grammar, library
from flamingo_jax.data.world.attributes import Concept, generator, pick

KINDS = ("binding", "attribute", "quiz", "gallery")
KIND_WEIGHTS = (0.45, 0.20, 0.20, 0.15)
_ICONS = {"share": 16, "mail": 20, "print": 24, "star": 32, "home": 40, "logo": 48}  # name -> side in pixels
_SPACER, _BANNER, _ADS = "spacer.png", "banner.jpg", 6
_BLANK = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
_NAVIGATION = ("home", "about us", "archive", "contact", "search", "news &amp; more", "imprint")
_ALT = ("", "picture", "photo", "image {n}", "see text", "DSC_{n:04d}")
_AD_CLASSES = ("ad", "ad", "advertisement", "ads")
# How a page lays out one picture and its paragraph.
_ITEMS = (
    "<p>{image}</p>\n<p>{text}</p>",
    "<figure>{image}<figcaption>{text}</figcaption></figure>",
    '<div class="item"><a href="/view?id={n}">{image}</a><p>{text}</p></div>',
    "{image}\n<p class=text>{text}</p>",
    "<div>{image}<br>\n{text}</div>",
)


def write(root: Path, config: WorldConfig, training: tuple[Concept, ...], numbers: range) -> None:
    """Writes the pages of the given ``numbers`` to ``root``/pages/NNNNN.html."""
    folder = root / "pages"
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (folder / f"{number:05d}.html").write_text(page(config, training, number), encoding="utf-8")


def write_clutter(root: Path, config: WorldConfig) -> None:
    """Writes the pictures that no page is about: icons, a one-colour spacer, a wide banner and advertisements."""
    folder = root / "pages" / "static"
    folder.mkdir(parents=True, exist_ok=True)
    rng = generator(config.seed, "clutter")
    for name, side in _ICONS.items():
        _noise_image(rng, side, side).save(folder / f"{name}.png")
    Image.new("RGB", (90, 80), (238, 238, 238)).save(folder / _SPACER)
    _noise_image(rng, 400, 90).save(folder / _BANNER)
    for i in range(_ADS):
        _noise_image(rng, 120, 100).save(folder / f"ad{i}.jpg")


def page(config: WorldConfig, training: tuple[Concept, ...], number: int) -> str:
    """One page's HTML: a pure function of (seed, number). A single kind and a single template for all of its items."""
    rng = generator(config.seed, "page", number)
    kind = KINDS[int(rng.choice(len(KINDS), p=KIND_WEIGHTS))]
    items = _CONTENTS[kind](rng, config, training)
    # With a <base> all relative addresses of the page start from another folder.
    base = rng.random() < 0.15
    style = rng.random()
    layout = pick(rng, _ITEMS)
    body = [f"<h1>{grammar.title(rng)}</h1>"] if rng.random() < 0.25 else []
    for n, (picture, text) in enumerate(items):
        image = _image(rng, _address(picture, base), style)
        body.append(layout.format(image=image, text=html.escape(text), n=n))
        if rng.random() < 0.12:
            body.append(_clutter(rng, base))
        if rng.random() < 0.03:
            body.append(f"<p>{grammar.prose(rng)}</p>")
    return _document(rng, "\n".join(body), base, number)


def _binding(rng: np.random.Generator, config: WorldConfig, training: tuple[Concept, ...]) -> list[tuple[str, str]]:
    ways = int(rng.integers(2, 5))
    words = grammar.draw_words(rng, ways)
    chosen = rng.choice(len(training), ways, replace=False).tolist()
    form = grammar.template(rng, grammar.BINDING_TEMPLATES, grammar.BINDING_WEIGHTS)
    copies = [rng.permutation(config.images_per_concept).tolist() for _ in chosen]
    items = []
    for n, i in enumerate(grammar.bursty(rng, ways, int(rng.integers(8, 11)))):
        copy = copies[i][n % config.images_per_concept]  # another picture of the concept each time
        picture, _ = library.entry(config, training, chosen[i] * config.images_per_concept + copy)
        items.append((picture, form.format(word=words[i])))
    return items


def _attribute(rng: np.random.Generator, config: WorldConfig, training: tuple[Concept, ...]) -> list[tuple[str, str]]:
    attribute = pick(rng, grammar.NAMED_ATTRIBUTES)
    form = grammar.template(rng, grammar.ATTRIBUTE_TEMPLATES, grammar.ATTRIBUTE_WEIGHTS)
    drawn = _draw(rng, config, training, int(rng.integers(6, 10)))
    return [(picture, grammar.attribute_text(form, attribute, scene.concept)) for picture, scene in drawn]


def _quiz(rng: np.random.Generator, config: WorldConfig, training: tuple[Concept, ...]) -> list[tuple[str, str]]:
    drawn = _draw(rng, config, training, int(rng.integers(5, 9)))
    return [(picture, grammar.quiz(rng, scene)) for picture, scene in drawn]


def _gallery(rng: np.random.Generator, config: WorldConfig, training: tuple[Concept, ...]) -> list[tuple[str, str]]:
    form = grammar.template(rng, grammar.CAPTION_TEMPLATES, grammar.CAPTION_WEIGHTS)
    drawn = _draw(rng, config, training, int(rng.integers(5, 9)))
    return [(picture, form.format(caption=grammar.caption(scene))) for picture, scene in drawn]


def _draw(rng: np.random.Generator, config: WorldConfig, training: tuple[Concept, ...], count: int):
    numbers = rng.choice(len(training) * config.images_per_concept, count, replace=False).tolist()
    return [library.entry(config, training, number) for number in numbers]


def _address(path: str, base: bool) -> str:
    """The relative address of a file below the pages' folder; a page with a base stands in the library's folder."""
    if not base:
        return path
    return path.removeprefix(f"{library.FOLDER}/") if path.startswith(f"{library.FOLDER}/") else f"../{path}"


def _image(rng: np.random.Generator, address: str, style: float) -> str:
    n = int(rng.integers(1, 1000))
    alt = f' alt="{pick(rng, _ALT).format(n=n)}"'
    if style < 0.15:
        return f'<img class="lazy" src="{_BLANK}" data-src="{address}"{alt}>'
    if style < 0.25:
        return f'<img src="{address}" srcset="{address} 1x, {address} 2x"{alt} loading="lazy">'
    return f'<img src="{address}"{alt}>' if style < 0.7 else f"<img{alt} src='./{address}' class=photo />"


def _clutter(rng: np.random.Generator, base: bool) -> str:
    """What stands between the items without belonging to them; the filters of the preparation must drop it all."""
    kind = int(rng.integers(5))
    if kind == 0:
        return f'<img src="missing/{int(rng.integers(10**6)):06d}.jpg" alt="">'
    if kind == 1:
        name = pick(rng, tuple(_ICONS))
        return f'<a href="#{name}"><img src="{_address(f"static/{name}.png", base)}" width="{_ICONS[name]}" alt=""></a>'
    if kind == 2:
        return f'<img src="{_address(f"static/{_SPACER}", base)}" alt="">'
    if kind == 3:
        return f'<div><img src="{_address(f"static/{_BANNER}", base)}" alt="banner"></div>'
    return _advertisement(rng, base)


def _advertisement(rng: np.random.Generator, base: bool) -> str:
    source = _address(f"static/ad{int(rng.integers(_ADS))}.jpg", base)
    link = f'<a href="/buy"><img src="{source}" alt="ad"></a>'
    return f'<div class="{pick(rng, _AD_CLASSES)}">{link}<p>buy now!</p></div>'


def _document(rng: np.random.Generator, body: str, base: bool, number: int) -> str:
    home = _address("static/logo.png", base)
    links = "".join(f'<li><a href="/{i}">{name}</a></li>' for i, name in enumerate(_NAVIGATION[: rng.integers(3, 8)]))
    aside = f"<aside><h3>related</h3>{_advertisement(rng, base)}</aside>\n" if rng.random() < 0.4 else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        + f"<title>{grammar.title(rng)} #{number}</title>\n"
        + (f'<base href="{library.FOLDER}/">\n' if base else "")
        + f"<style>body{{margin:0}}</style>\n<script>window.page={{id:{number}}};</script>\n</head>\n<body>\n"
        + f'<header><img src="{home}" alt="logo"><span>my site</span></header>\n<nav><ul>{links}</ul></nav>\n'
        + f"<main>\n{body}\n</main>\n{aside}"
        + "<footer><p>&copy; all rights reserved</p></footer>\n<script>track();</script>\n</body>\n</html>\n"
    )


def _noise_image(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    coarse = rng.integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


_CONTENTS = {"binding": _binding, "attribute": _attribute, "quiz": _quiz, "gallery": _gallery}
