import glob
import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from PIL import Image
from prepared import pack

from flamingo_jax.config import CorpusConfig, TextRules
from flamingo_jax.data import image, record
from flamingo_jax.data.prepare import make, shard
from flamingo_jax.data.prepare import prepare as prepare_
from flamingo_jax.data.world.clips import encode as encode_clip


def picture(path, width=90, height=70, seed=0, colour=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    pixels = Image.fromarray(coarse).resize((width, height))
    (Image.new("RGB", (width, height), colour) if colour else pixels).save(path)


def prepare(format, source, target, workers=1, progress=None, **options):
    """Pages here are shorter than the web's, and many images are broken on purpose."""
    options = {"text": TextRules(formats=()), "max_bad": 1.0, "size": 48} | options
    return prepare_(CorpusConfig(format=format, source=source, **options), target, workers=workers, progress=progress)


@pytest.fixture
def site(tmp_path):
    """80 pages over shared images, each with clutter around its content."""
    pages = tmp_path / "site"
    for i in range(6):
        picture(pages / "images" / f"{i} é.jpg", seed=i)
    picture(pages / "static" / "icon.png", 32, 32)
    picture(pages / "static" / "banner.png", 400, 90)
    picture(pages / "static" / "spacer.png", colour=(238, 238, 238))
    (pages / "static" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 broken")
    for i in range(80):
        (pages / f"{i:03d}.html").write_text(f"""
            <html><head><title>no</title></head><body><nav><img src="images/0 é.jpg">no</nav>
            <p><img src="images/{i % 6}%20%C3%A9.jpg"></p><p>text {i}</p>
            <img src="static/icon.png"><img src="static/banner.png"><img src="static/spacer.png">
            <img src="static/broken.jpg"><img src="missing.jpg"><img src="https://x.example/y.jpg">
            <img src="%2e%2e%2foutside.jpg"><img>
            <p>more</p><img src="data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP" data-src="/images/{(i + 1) % 6} é.jpg">
            <p>end</p><div class="ad"><img src="images/0 é.jpg"></div><footer>no</footer></body></html>""")
    (pages / "empty.html").write_text("")
    (pages / "words.html").write_text("<p>only words")
    picture(tmp_path / "outside.jpg")
    return pages


def test_pages_become_documents_and_every_drop_is_counted(site, tmp_path):
    seen = []
    report = prepare(
        "html",
        f"{site}/*.html",
        tmp_path / "set",
        size=48,
        workers=1,
        shards=3,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert report["documents"] == 80 and report["media"] == 160
    assert report["drops"] == {
        "image too small": 80,
        "image too long or wide": 80,
        "image of a single colour": 80,
        "image not readable": 80,
        "medium missing": 80,
        "medium elsewhere": 160,
        "image without address": 80,
        "page without images": 2,
    }
    assert set(report["first_drops"]) == set(report["drops"])
    assert report["first_drops"]["image too small"] == "000.html: static/icon.png: 32 x 32 pixels"
    total = sum(path.stat().st_size for path in site.glob("*.html"))
    assert seen[-1] == (total, total) and len(seen) > 1
    source = record.Source(tmp_path / "set")
    assert source.manifest["report"] == report and len(source.manifest["files"]) == 3
    documents = {source[i].key: source[i] for i in range(len(source))}
    document = documents["007.html"]
    assert (document.text, document.positions, document.source) == ("text 7\nmore\nend", (0, 12), "007.html")
    assert [image.decode(frames[0]).shape for frames in document.media] == [(37, 48, 3)] * 2
    assert document.media[0] == documents["012.html"].media[1] != document.media[1]


def test_two_workers_write_the_same_bytes_as_one(site, tmp_path):
    for workers in (1, 2):
        prepare("html", f"{site}/*.html", tmp_path / str(workers), size=48, workers=workers)
    assert record.read_manifest(tmp_path / "1") == record.read_manifest(tmp_path / "2")


def test_a_small_cache_changes_nothing(site, tmp_path, monkeypatch):
    first = prepare("html", f"{site}/*.html", tmp_path / "a", size=48, workers=1)
    monkeypatch.setattr(make, "_CACHE_BYTES", 3000)
    assert prepare("html", f"{site}/*.html", tmp_path / "b", size=48, workers=1) == first
    assert record.read_manifest(tmp_path / "a") == record.read_manifest(tmp_path / "b")


def test_folders_below_the_globs_fixed_part_are_one_site(tmp_path):
    picture(tmp_path / "site" / "images" / "a.jpg")
    for folder in ("x", "y"):
        (tmp_path / "site" / folder).mkdir()
        (tmp_path / "site" / folder / "p.html").write_text("<img src=../images/a.jpg>one<img src=/images/a.jpg>two")
    report = prepare("html", f"{tmp_path}/site/**/*.html", tmp_path / "set", size=48)
    assert (report["documents"], report["media"], report["drops"]) == (2, 4, {})
    assert record.Source(tmp_path / "set")[0].key == "x/p.html"


def test_text(tmp_path):
    lines = [json.dumps({"text": f" line {i}\nmore "}) for i in range(3)]
    lines += ["", "{", "[1]", '{"text": 3}', '{"text": " "}', "[" * 100_000, '{"text": "lone \\ud800"}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines), "utf-8-sig")
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "\xff"}\n')
    report = prepare("text", f"{tmp_path}/*.jsonl", tmp_path / "set", shards=1)
    assert report["drops"] == {"line not JSON": 2, "line not an object": 1, "line without text": 2}
    assert report["first_drops"]["line not JSON"].startswith("a.jsonl:5: ")
    source = record.Source(tmp_path / "set")
    assert [source[i].text for i in range(5)] == ["line 0\nmore", "line 1\nmore", "line 2\nmore", "lone ?", "\ufffd"]
    assert source[1].key == "a.jsonl:2" and source[1].media == ()


def test_a_table_of_clips(tmp_path):
    frames = [np.full((72, 96, 3), 20 * i, np.uint8) for i in range(8)]  # two seconds
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "a.mp4").write_bytes(encode_clip(frames))
    (tmp_path / "v" / "bad.mp4").write_bytes(b"bad")
    (tmp_path / "v" / "captions.csv").write_text(
        'path,caption,extra\na.mp4,"a, clip",1\nbad.mp4,x,2\ngone.mp4,y,3\na.mp4,,4\n'
    )
    report = prepare("table", f"{tmp_path}/v/captions.csv", tmp_path / "set", size=48, fps=2.0, max_frames=3)
    assert report["drops"] == {"image not readable": 1, "medium missing": 1, "pair without caption": 1}
    document = record.Source(tmp_path / "set")[0]
    assert (document.key, document.text, len(document.media), len(document.media[0])) == (
        "captions.csv@19",
        "a, clip",
        1,
        3,
    )
    assert [round(image.decode(frame).mean() / 20) for frame in document.media[0]] == [0, 2, 4]


def test_too_much_damage_stops_and_a_larger_share_goes_on(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "good"}\n{\n{\n')
    message = r"2 of 3 documents and media are damaged, more than max_bad=0.5:\n  2 x line not JSON \(first: a.jsonl:2"
    with pytest.raises(ValueError, match=message):
        prepare("text", f"{tmp_path}/a.jsonl", tmp_path / "set", max_bad=0.5)
    report = prepare("text", f"{tmp_path}/a.jsonl", tmp_path / "set", max_bad=0.7)
    assert (report["documents"], report["bad"]) == (1, 2)
    listed = (tmp_path / "set" / "00000-of-00001.bad.jsonl").read_text().splitlines()
    assert [json.loads(line)["place"].split(": ")[0] for line in listed] == ["a.jsonl:2", "a.jsonl:3"]


def test_a_preparation_that_finds_nothing_but_damage_stops_early(tmp_path):
    (tmp_path / "a.jsonl").write_text("{\n" * 5000)
    with pytest.raises(ValueError, match="1000 of 1000 documents and media are damaged"):
        prepare("text", f"{tmp_path}/a.jsonl", tmp_path / "set", max_bad=0.5)


def test_damaged_tars_with_media_are_in_the_report_and_the_list(tmp_path, monkeypatch):
    """Also when the preparation was interrupted after it had found the media."""
    picture(tmp_path / "a.jpg")
    members = []
    for i in range(10):
        fields = b"{" if i == 2 else json.dumps({"url": f"https://x.example/{i}"}).encode()
        members += [(f"{i}.jpg", (tmp_path / "a.jpg").read_bytes()), (f"{i}.json", fields)]
    (tmp_path / "0.tar").write_bytes(pack(*members))
    (tmp_path / "1.tar").write_bytes(pack(*members)[:700])
    (tmp_path / "a.csv").write_text("url,caption\n" + "".join(f"https://x.example/{i},text\n" for i in range(10)))
    options = {"images": f"{tmp_path}/*.tar", "workers": 1, "columns": {"media": "url"}}
    whole = prepare("table", f"{tmp_path}/a.csv", tmp_path / "a", **options)
    assert whole["documents"] == 9 and whole["bad"] == 2
    assert whole["drops"] == {"line not JSON": 1, "tar damaged": 1, "medium missing": 1}
    assert whole["first_drops"]["tar damaged"].startswith(f"{tmp_path}/1.tar, from byte ")
    listed = (tmp_path / "a" / "media.bad.jsonl").read_text().splitlines()
    assert [json.loads(line)["reason"] for line in listed] == ["line not JSON", "tar damaged"]

    def interrupt(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shard, "write_shard", interrupt)
        prepare("table", f"{tmp_path}/a.csv", tmp_path / "b", **options)
    assert prepare("table", f"{tmp_path}/a.csv", tmp_path / "b", **options) == whole
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "b").iterdir())
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)


def test_an_unreadable_page_stops_the_workers(site, tmp_path):
    os.symlink(tmp_path / "nowhere", site / "070b.html")
    with pytest.raises(OSError, match="Cannot read .*070b.html: No such file"):
        prepare("html", f"{site}/*.html", tmp_path / "set", workers=2)


def test_an_interrupted_preparation_goes_on(site, tmp_path, monkeypatch):
    """Shards that are done are not touched again, and the result is that of one go, byte for byte."""
    whole = prepare("html", f"{site}/*.html", tmp_path / "a", shards=4)

    def interrupt(target, index, report, write=shard.write_shard):
        if index == 2:
            raise KeyboardInterrupt
        write(target, index, report)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shard, "write_shard", interrupt)
        prepare("html", f"{site}/*.html", tmp_path / "b", shards=4)
    with pytest.raises(ValueError, match="There is no dataset"):
        record.Source(tmp_path / "b")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "b").glob("*.array_record")}
    assert len(before) == 2
    with pytest.raises(ValueError, match="b was begun with other options"):
        prepare("html", f"{site}/*.html", tmp_path / "b", shards=4, size=50)
    seen = []
    assert prepare("html", f"{site}/*.html", tmp_path / "b", shards=4, progress=lambda *at: seen.append(at)) == whole
    assert seen[-1][0] == seen[-1][1]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "b").iterdir())
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)


def test_a_preparation_that_is_done_is_not_done_again(site, tmp_path):
    first = prepare("html", f"{site}/*.html", tmp_path / "set")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "set").iterdir()}
    assert prepare("html", f"{site}/*.html", tmp_path / "set") == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "set").iterdir()} == times
    (site / "new.html").write_text("<img src='images/0 \u00e9.jpg'>new")
    with pytest.raises(ValueError, match="set was prepared with other options, or from raw files that have changed"):
        prepare("html", f"{site}/*.html", tmp_path / "set")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    with pytest.raises(ValueError, match="mine holds something else; delete it"):
        prepare("html", f"{site}/*.html", tmp_path / "mine")


def test_workers_end_with_a_killed_parent(site, tmp_path):
    script = tmp_path / "main.py"
    script.write_text(
        textwrap.dedent(f"""
        import multiprocessing, os, signal
        from flamingo_jax.config import CorpusConfig, TextRules
        from flamingo_jax.data.prepare import prepare

        def kill(done, total):
            print(*[child.pid for child in multiprocessing.active_children()], flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

        if __name__ == "__main__":
            options = CorpusConfig(format="html", source={str(site / "*.html")!r}, text=TextRules(formats=()), shards=4)
            prepare(options, {str(tmp_path / "set")!r}, progress=kill, workers=2)
    """)
    )
    # The pipe ends when the last process that holds it has gone.
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert result.returncode == -9 and len(result.stdout.split()) == 2, result
    prepare("html", f"{site}/*.html", tmp_path / "set", shards=4, max_bad=0.5, size=320)
    assert not [path.name for path in (tmp_path / "set").iterdir() if path.name.startswith(".")]


def test_a_folder_may_hold_brackets(tmp_path):
    """An escaped glob finds its files, and the site's root is still the folder before the first wildcard."""
    site = tmp_path / "a[1]"
    picture(site / "images" / "x.jpg")
    (site / "page.html").write_text('<p><img src="/images/x.jpg"></p><p>text</p>')
    report = prepare("html", f"{glob.escape(str(site))}/*.html", tmp_path / "set", size=48, workers=1)
    assert report["documents"] == 1 and report["media"] == 1


def crashing(site, target, **options):
    """Prepares the site in a process in which static/broken.jpg crashes the decoders, as C code does."""
    script = target.with_name("main.py")
    script.write_text(
        textwrap.dedent(f"""
        import os, signal
        from flamingo_jax.config import CorpusConfig, DuplicateRules, TextRules
        from flamingo_jax.data import image
        from flamingo_jax.data.prepare import prepare

        def crash(data, *arguments, decoder):
            if data == b"\\xff\\xd8\\xff\\xe0 broken":
                os.kill(os.getpid(), signal.SIGSEGV)
            return decoder(data, *arguments)

        # In the workers too, which import this file.
        store, decode = image.store, image.decode
        image.store = lambda *arguments: crash(*arguments, decoder=store)
        image.decode = lambda *arguments: crash(*arguments, decoder=decode)
        if __name__ == "__main__":
            rules = DuplicateRules(evaluation={options.pop("evaluation", "")!r})
            options = CorpusConfig(
                format="html", source={str(site / "*.html")!r}, text=TextRules(formats=()), max_bad=1.0,
                duplicates=rules, shards={options["shards"]}
            )
            print(prepare(options, {str(target)!r}, workers={options["workers"]})["drops"])
    """)
    )
    return subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("workers", "shards"),
    [(2, 2), pytest.param(2, 1, marks=pytest.mark.slow), (1, 1), pytest.param(1, 2, marks=pytest.mark.slow)],
)
def test_a_picture_that_crashes_its_decoder_costs_one_picture(site, tmp_path, workers, shards):
    """It takes its process along, but is found, counted and left out; at the second start, if it was the only one."""
    target = tmp_path / "set"
    result = crashing(site, target, workers=workers, shards=shards)
    if workers == 1:
        assert result.returncode == -signal.SIGSEGV, result.stderr
        assert [path.name for path in target.glob("*.now")] == ["00000.now"]
        result = crashing(site, target, workers=workers, shards=shards)
    assert "'medium crashes its decoder': 80" in result.stdout, result.stderr
    assert len(record.Source(target)) == 80
    assert not [path for path in target.iterdir() if path.suffix in (".now", ".txt")]


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_benchmarks_picture_that_crashes_its_decoder_is_left_out(site, tmp_path, workers):
    options = {"workers": workers, "shards": 1, "evaluation": f"{site}/static/b*"}
    result = crashing(site, tmp_path / "set", **options)
    if workers == 1:
        assert result.returncode == -signal.SIGSEGV, result.stderr
        result = crashing(site, tmp_path / "set", **options)
    assert "'medium crashes its decoder': 80" in result.stdout, result.stderr


def test_a_picture_at_which_a_process_was_killed_is_kept(site, tmp_path, caplog):
    """It is suspected, and innocent; who uses another driver is told what to do if it is not."""
    options = CorpusConfig(format="html", source=f"{site}/*.html", text=TextRules(formats=()), max_bad=1.0, shards=2)
    whole = prepare_(options, tmp_path / "a", workers=1)
    digest = hashlib.blake2b((site / "images" / "0 é.jpg").read_bytes(), digest_size=16).hexdigest()

    def killed(work, target, *_):
        pathlib.Path(target, "00001.now").write_text(digest)
        raise KeyboardInterrupt

    for said in (False, True):
        with pytest.raises(KeyboardInterrupt):
            prepare_(options, tmp_path / "b", driver=killed)
        assert ("start it without --runner" in caplog.text) == said
    assert prepare_(options, tmp_path / "b", workers=1) == whole
    assert record.read_manifest(tmp_path / "a") == record.read_manifest(tmp_path / "b")


def test_an_interruption_leaves_no_suspect(site, tmp_path, monkeypatch):
    """Python ends in order then, which a crash does not."""
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(image, "store", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        prepare("html", f"{site}/*.html", tmp_path / "set")
    assert (tmp_path / "set" / "00000.now").read_bytes() == bytes(32)
