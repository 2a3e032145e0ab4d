"""The rules for text, against a slow and obvious counterpart of each."""

import collections
import itertools
import random
import re

import pytest

from flamingo_jax.config import TextRules
from flamingo_jax.data.filters import language, text

STORY = """\
The old lighthouse keeper climbed the stairs every evening and lit the lamp with his own hands. From the gallery he \
could see the harbour, the fishing boats that came home late, and behind them the hills with their white farms. Nobody \
had asked him to keep a diary, but he wrote down the weather, the ships and whatever else seemed to be of use to those \
who would have to stay there after him.
In spring a letter arrived from the city. It said that a machine was going to do the work from now on, and thanked him \
for thirty years of service. He read it twice, folded it carefully and put it between the pages of the book.
When the engineers came in May, they found the lamp polished, the windows clean and a pot of coffee on the stove."""
GERMAN = """\
Am Abend stieg der alte Wärter die Treppe hinauf und zündete die Lampe mit eigenen Händen an. Von der Galerie sah er \
den Hafen, die Fischerboote, die spät heimkamen, und dahinter die Hügel mit ihren weißen Höfen. Niemand hatte ihn um \
ein Tagebuch gebeten, doch er schrieb das Wetter auf, die Schiffe und was sonst noch nützlich war."""
ANY = TextRules(languages=())


def words_of(page):
    return [word for word in re.split("[\0-\x20]+", page) if word]


def lines_of(page):
    return [line for line in page.split("\n") if line]


def ngrams_of(page, n):
    words = words_of(page)
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def top_share(page, n):
    counts = collections.Counter(ngrams_of(page, n))
    most = max(counts.values(), default=0)
    longest = max((len("".join(gram)) for gram, count in counts.items() if count == most > 1), default=0)
    return most * longest / len("".join(words_of(page)))


def repeated_share(page, n):
    words, grams = words_of(page), ngrams_of(page, n)
    counts = collections.Counter(grams)
    covered = {i + k for i, gram in enumerate(grams) if counts[gram] > 1 for k in range(n)}
    return sum(len(words[i]) for i in covered) / len("".join(words))


def repeats_lines(page, rules):
    lines, seen, repeated = lines_of(page), set(), []
    for line in lines:
        if line in seen:
            repeated.append(line)
        seen.add(line)
    return len(repeated) > rules.max_repeated_lines * len(lines) or len(
        "".join(repeated)
    ) > rules.max_repeated_line_characters * len("".join(lines))


def reference(page, rules, code):
    """What ``judge`` says of a page in a language that is written with spaces, and that is kept."""
    words, lines = words_of(page), lines_of(page)
    mean = len("".join(words)) / max(1, len(words))
    stop_words = {word.lower() for word in words} & set("the be to of and that have with".split())
    ellipses = page.count("...") + page.count("…")
    broken = {
        "text too short": len(words) < rules.min_words,
        "text too long": len(words) > rules.max_words,
        "text of symbols": max(page.count("#"), ellipses) > rules.max_symbols * len(words),
        "text of bullets": sum(line[0] in "•‣◦▪●■*-–" for line in lines) > rules.max_bullets * len(lines),
        "text of unfinished lines": sum(line.endswith(("...", "…")) for line in lines)
        > rules.max_ellipses * len(lines),
        "text repeats lines": repeats_lines(page, rules),
        "text of odd words": not rules.min_word_length <= mean <= rules.max_word_length,
        "text without letters": sum(any(c.isalpha() for c in word) for word in words)
        < rules.min_alphabetic * len(words),
        "text without stop words": code == "en" and len(stop_words) < rules.min_stop_words,
        "text repeats phrases": any(top_share(page, int(n)) > limit for n, limit in rules.max_top_ngram.items())
        or any(repeated_share(page, int(n)) > limit for n, limit in rules.max_repeated_ngram.items()),
    }
    return next((reason for reason, is_broken in broken.items() if is_broken), None)


def random_page(rng):
    """Words of few letters, so that n-grams repeat by chance, and now and then passages, lines, marks that repeat."""
    size = rng.choice((3, 20, 300))
    letters = rng.choice(("ab", "etaoins", "aé漢😀-", "abc#.…12345\u00a0", "a\ud800ß"))
    vocabulary = ["".join(rng.choices(letters, k=rng.randint(1, 9))) for _ in range(size)]
    vocabulary += rng.choice(([], ["the", "Of", "have", "x" * 60]))
    space = rng.choice((" ", " ", "  ", "\t", "\x1f \r"))
    lines = []
    for _ in range(rng.randint(1, 30)):
        words = rng.choices(vocabulary, k=rng.randint(1, 25))
        if lines and rng.random() < 0.2:
            words += rng.choice(lines).split()[:12]
        line = rng.choice(("", "", "- ", "• ", "#")) + space.join(words) + rng.choice(("", ".", "...", "…", "...."))
        lines.append(rng.choice(lines) if lines and rng.random() < 0.1 else line)
    return rng.choice(("\n", "\n", "\n\n")).join(lines)


OFF = dict(
    languages=(),
    min_words=0,
    max_words=10**9,
    min_word_length=0.0,
    max_word_length=1e9,
    max_symbols=1e9,
    max_bullets=1.0,
    max_ellipses=1.0,
    min_alphabetic=0.0,
    min_stop_words=0,
    max_repeated_lines=1.0,
    max_repeated_line_characters=1.0,
    max_top_ngram={},
    max_repeated_ngram={},
)
LIMITS = {  # option -> a limit near what random pages have
    "min_words": lambda rng: rng.randint(1, 200),
    "max_words": lambda rng: rng.randint(1, 400),
    "min_word_length": lambda rng: rng.uniform(2, 8),
    "max_word_length": lambda rng: rng.uniform(3, 8),
    "max_symbols": lambda rng: rng.uniform(0, 0.3),
    "max_bullets": lambda rng: rng.uniform(0.2, 0.8),
    "max_ellipses": lambda rng: rng.uniform(0.2, 0.9),
    "min_alphabetic": lambda rng: rng.uniform(0.5, 1),
    "min_stop_words": lambda rng: rng.randint(1, 3),
    "max_repeated_lines": lambda rng: rng.uniform(0, 0.2),
    "max_repeated_line_characters": lambda rng: rng.uniform(0, 0.2),
    "max_top_ngram": lambda rng: {str(n): rng.uniform(0, 0.4) for n in rng.sample(range(1, 6), 2)},
    "max_repeated_ngram": lambda rng: {str(n): rng.uniform(0, 0.7) for n in rng.sample(range(2, 12), 3)},
}


@pytest.mark.parametrize("options", [*([name] for name in LIMITS), list(LIMITS)], ids=lambda names: names[0])
def test_pages_are_judged_as_by_the_obvious_rules(options, monkeypatch):
    rng, seen = random.Random(0), collections.Counter()
    for _ in range(100):
        page, code = random_page(rng), rng.choice(("en", "en", "de"))
        limits = OFF | {name: LIMITS[name](rng) for name in options}
        for least, most in (("min_words", "max_words"), ("min_word_length", "max_word_length")):
            limits[least], limits[most] = sorted((limits[least], limits[most]))
        rules = TextRules(**limits)
        monkeypatch.setattr(language, "identify", lambda *_, code=code: (code, 1.0))
        reason = text.judge(page, rules)
        assert reason == reference(page, rules, code), (page, rules)
        seen[reason] += 1
    assert len(seen) >= 2 and max(seen.values()) <= 90, seen  # both sides of the limit


def test_shares_of_ngrams_are_exact():
    rng = random.Random(1)
    for _ in range(100):
        page = random_page(rng)
        grams = text.Grams(text.find_words(page))
        for n in (1, 2, 3, 5, 10):
            counts = collections.Counter(ngrams_of(page, n))
            assert grams.most(n) >= max(counts.values(), default=0)
            assert text.top_share(grams, n) == pytest.approx(top_share(page, n), abs=1e-12)
            assert text.repeated_share(grams, n) == pytest.approx(repeated_share(page, n), abs=1e-12)


def test_different_words_are_different_numbers():
    words = sorted({"".join(p) for k in range(1, 5) for p in itertools.product("ab\u0101é漢", repeat=k)})
    hashes = text.Grams(text.find_words(" ".join(words))).hashes(1)
    assert len(set(hashes.tolist())) == len(words)
    twice = text.Grams(text.find_words(" ".join(words) + "\n\n" + "\t".join(words))).hashes(1)
    assert (twice[: len(words)] == twice[len(words) :]).all()


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        (STORY, None),
        ("", "text too short"),
        (" \n" * 200, "text in another language"),
        (" ".join(STORY.split()[:49]), "text too short"),
        (GERMAN, "text in another language"),
        ("Le vieux gardien montait chaque soir et allumait la lampe de ses mains. " * 4, "text in another language"),
        ("老看守每天晚上都爬上楼梯，亲手点亮灯塔上的灯。" * 8, "text in another language"),
        ("1 2 3 ... 4 5 " * 50, "text in another language"),
        (STORY.replace(" the ", " #the "), "text of symbols"),
        ("- " + STORY.replace("\n", " ").replace(". ", ".\n- "), "text of bullets"),
        ("\n".join(f"{line}..." for line in STORY.split(", ")[:8]), "text of unfinished lines"),
        (STORY + "\n" + STORY, "text repeats lines"),
        (STORY + " " + STORY, "text repeats phrases"),
        (STORY.replace(" ", " 12 ", 90), "text without letters"),
        (STORY.upper(), None),
        (STORY.replace(" ", "\u2003"), "text too short"),
    ],
)
def test_pages(page, reason):
    assert text.judge(page, TextRules()) == reason


def test_a_page_of_another_language_is_held_to_the_same_rules_when_that_is_kept():
    assert text.judge(GERMAN, TextRules(languages=("en", "de"))) is None
    assert text.judge(GERMAN, ANY) is None
    assert text.judge(f"{GERMAN} {GERMAN}", ANY) == "text repeats phrases"
    assert text.judge(GERMAN, TextRules(languages=("de",), language_score=1.01)) == "text in another language"


def test_without_spaces_characters_are_words():
    rules = TextRules(languages=("zh",))
    chinese = (
        "老看守每天晚上都爬上楼梯，亲手点亮灯塔上的灯。从走廊上他能看见港口、晚归的渔船，还有远处山坡上白色的农舍。"
    )
    assert text.judge(chinese, rules) is None
    assert text.judge(chinese[:40], rules) == "text too short"
    assert text.judge(f"{chinese}\n" * 3, rules) == "text repeats lines"
    assert text.judge(chinese, TextRules(languages=("zh",), max_words=50)) == "text too long"


@pytest.mark.parametrize(
    "page", ["\ud800" * 200, "\0" * 200, "\n" * 200, "a" * 100_000, "a " * 50_000, "…\n" * 500, "é" * 60]
)
def test_odd_texts_have_a_reason(page):
    assert text.judge(page, TextRules()) in text.REASONS
    assert text.judge(page, ANY) in text.REASONS


def test_plain_english_is_that_of_all_parts(monkeypatch):
    english = "Every evening old Anna climbed the narrow stairs and lit her lamp, though few ships still passed here. "
    german = GERMAN.replace("\n", " ")
    assert language.is_plain_english(english * 40) and language.is_plain_english(english * 2)
    for text_ in ("", english[:50], german, english * 20 + german * 20, english.upper() * 40):
        assert not language.is_plain_english(text_), text_[:80]
    monkeypatch.setattr(language, "_detector", None)
    assert language.identify(english * 40, 0.9) == ("en", 1.0)


def test_the_language_of_a_long_page_is_that_of_all_its_parts():
    english, german = STORY * 30, "Der alte Wärter stieg hinauf und zündete die Lampe an. " * 800
    assert language.identify(english, 0.8)[0] == "en" and language.identify(german, 0.8)[0] == "de"
    assert language.identify(english[:2000] + german, 0.8)[0] == "de"
    assert language.identify("home news contact\n" * 10 + german, 0.8)[0] == "de"
    code, probability = language.identify("x" * 10_000_000, 0.8)
    assert isinstance(code, str) and 0 <= probability <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(languages=("english",)), "languages has 'english'"),
        (dict(max_top_ngram={"two": 0.1}), "max_top_ngram has 'two'"),
        (dict(max_repeated_ngram={"0": 0.1}), "max_repeated_ngram has '0'"),
    ],
)
def test_senseless_rules_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        TextRules(**options)
