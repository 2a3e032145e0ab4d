"""Pages per second of one core, from bytes to filtered documents: parsing alone, extraction, and the text filters.

    python benchmarks/html.py --rounds=40

Pages are synthetic: 99 KB, some 1,000 nodes, 120 images with sets of sizes, scripts, navigation, side bar and footer
around 7 KB of English prose (Python's own reference manual), which passes all filters. (Of Common Crawl's bytes, some
5 % are text.) Heavier pages: ``--elements=1024 --text=16000``. They go through the code that
prepares a corpus: ``page`` of ``data/formats/html.py`` and ``judge`` of ``data/filters/text.py``; images are not read.
The three kinds of work alternate. Printed are the fastest round (what the code takes when nothing else wants the
caches) and the median one, of processor time in this one process, and the medians' ratios to parsing alone.
"""

from __future__ import annotations

import argparse
import functools
import random
import re
import statistics
import time
from pydoc_data.topics import topics

from selectolax.lexbor import LexborHTMLParser

from flamingo_jax.config import TextRules
from flamingo_jax.data.document import Dropped
from flamingo_jax.data.filters.text import judge
from flamingo_jax.data.formats import html

SIZE, IMAGES = 99_000, 120
RULES = TextRules()
URL = "https://journal.example/2024/05/a-page.html"


@functools.cache
def sentences() -> list[str]:
    """Prose of Python's reference manual."""
    paragraphs = (" ".join(part.split()) for text in topics.values() for part in text.split("\n\n"))
    prose = [p for p in paragraphs if re.fullmatch(r"[A-Z][^`|=+<>&\\]{80,900}[a-z]\.", p)]
    return sorted({sentence for p in prose for sentence in re.split(r"(?<=[a-z]\.) (?=[A-Z])", p)})


def make_page(seed: int, text: int, elements: int) -> bytes:
    """A page of so many elements and characters of prose. Raises ValueError when they do not fit into ``SIZE``."""
    rng = random.Random(seed)
    drawn = iter(rng.sample(sentences(), len(sentences())))
    head = [f"<title>{next(drawn)}</title>", '<meta charset="utf-8">', '<link rel="canonical" href="/a-page">']
    head += [f'<meta property="og:item{i}" content="value {i}">' for i in range(12)]
    head += [f'<link rel="stylesheet" href="/wp-content/themes/journal/css/part-{i}.css">' for i in range(8)]
    head.append("<style>" + ".card{margin:0 auto;padding:4px 8px}" * 100 + "</style>")
    links = [f'<li class="menu-item item-{i}"><a href="/section/{i}">Section {i}</a></li>' for i in range(12)]
    top = (
        f'<header class="site-header"><a href="/" class="logo">Journal</a><nav><ul>{"".join(links)}</ul></nav></header>'
    )
    body, written, number = [f"<h1>{next(drawn)}</h1>"], 0, 0
    while written < text or number < IMAGES:
        words = []
        for _ in range(max(1, round(text / 16_000)) if written < text else 0):
            if (sentence := next(drawn, None)) is None:
                raise ValueError(f"There is not as much prose as {text} characters.")
            written += len(sentence)
            first, _, rest = sentence.partition(" ")
            mark = rng.choice(("{}", "<em>{}</em>", "<strong>{}</strong>", f'<a href="/topic/{number}">{{}}</a>'))
            words.append(f"{mark.format(first)} {rest}")
        if words:
            body.append(f'<p class="text" id="par-{number}">\n  {" ".join(words)}\n</p>')
        if number < IMAGES:
            name = f"/uploads/2024/{seed}/{number:03d}"
            body.append(
                f'<figure class="wp-block-image size-large"><a href="{name}.html"><img class="wp-image-{number}" '
                f'src="{name}.jpg" srcset="{name}.jpg 1200w, {name}-300.jpg 300w" sizes="(max-width: 60em) 100vw" '
                f'width="1200" height="800" loading="lazy" alt="picture {number}"></a></figure>'
            )
        number += 1
    side = "".join(f'<li><a href="/recent/{i}">Recent entry {i}</a></li>' for i in range(20))
    parts = [
        '<!doctype html>\n<html lang="en"><head>',
        "\n".join(head),
        '</head>\n<body class="single post-template">\n',
        top,
        '\n<main class="content"><article class="post">\n',
        "\n".join(body),
        f'\n</article></main>\n<div class="widget sidebar"><ul>{side}</ul></div>',
    ]
    count = sum(len(re.findall(r"<[a-z]", part)) for part in parts)
    if count + 3 > elements:
        raise ValueError(f"Such a page has {count + 3} elements at least.")
    foot = "".join(f"<li>Imprint {i}</li>" for i in range(elements - count - 3))
    parts.append(f'\n<footer id="colophon"><ul>{foot}</ul></footer>\n<script>')
    script = "window.items=(window.items||[]).concat({id:7,kind:'view',active:true});\n"
    end = "</script></body></html>\n"
    room = SIZE - sum(len(part.encode()) for part in parts) - len(end)
    if room < 0:
        raise ValueError(f"{text} characters of prose make a page longer than {SIZE} bytes.")
    return "".join([*parts, (script * (room // len(script) + 1))[:room], end]).encode()


def extract(data: bytes):
    return html.page(data, URL, lambda address: Dropped("image missing", address), "key")


def prepare(data: bytes) -> str | None:
    """Why a page is left out, or None: what ``Maker`` does with it before it reads its images."""
    return judge(extract(data).text, RULES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--pages", type=int, default=50)
    parser.add_argument("--text", type=int, default=7_000, help="Characters of prose in a page.")
    parser.add_argument("--elements", type=int, default=620, help="Elements of a page.")
    options = parser.parse_args()
    pages = [make_page(seed, options.text, options.elements) for seed in range(options.pages)]
    characters, words, nodes = [], [], []
    for data in pages:
        document = extract(data)
        if len(document.media) != IMAGES or (reason := prepare(data)) is not None:
            raise SystemExit(f"A page has {len(document.media)} images and is left out for: {reason}")
        tree = LexborHTMLParser(data).root
        elements = sum(1 for node in tree.traverse() if node.is_element_node)
        if len(data) != SIZE or elements != options.elements:
            raise SystemExit(f"A page has {len(data)} bytes and {elements} elements.")
        nodes.append(sum(1 for _ in tree.traverse(include_text=True)))
        characters.append(len(document.text))
        words.append(len(document.text.split()))
    print(
        f"{len(pages)} pages of {SIZE} bytes: {options.elements} elements ({statistics.mean(nodes):.0f} nodes), "
        f"{IMAGES} images, {statistics.mean(characters):.0f} characters, {statistics.mean(words):.0f} words"
    )
    works = {"parse alone": LexborHTMLParser, "extraction": extract, "extraction + filters": prepare}
    seconds = {name: [] for name in works}
    for _ in range(options.rounds):
        for name, work in works.items():
            start = time.process_time()
            for data in pages:
                work(data)
            seconds[name].append((time.process_time() - start) / len(pages))
    parse = statistics.median(seconds["parse alone"])
    for name, values in seconds.items():
        median, least = statistics.median(values), min(values)
        print(
            f"{name:22}{1 / least:6.0f} pages/s ({1e3 * least:.2f} ms) at best, "
            f"{1 / median:.0f} ({1e3 * median:.2f} ms) in the middle: {median / parse:.2f} x parse alone"
        )


if __name__ == "__main__":
    main()
