"""Metrics: the same file after a kill, TensorBoard events, errors that name the file, the progress lines."""

import io
import json
import resource
import struct

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from flamingo_jax.training import metrics


def values(step):
    return {"loss/m3w": 1 / step, "loss/align": 0.1 * step, "grad_norm": float(step)}


def write_steps(directory, resume, steps):
    writer = metrics.Writer(directory, resume_step=resume)
    for step in steps:
        writer.write(step, values(step))
    return writer


def events(directory):
    """All events of a folder, files in order of their making; framing: length, CRC, record, CRC."""
    out = []
    for path in sorted(directory.glob("events*"), key=lambda p: int(p.name.rsplit(".", 1)[1])):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            out.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return out


def test_lines_hold_the_step_and_exact_values(tmp_path):
    write_steps(tmp_path, 0, [1, 2, 3]).close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": step, **values(step)} for step in (1, 2, 3)] == metrics.read(tmp_path)


def test_a_killed_and_resumed_run_ends_with_the_same_file(tmp_path):
    write_steps(tmp_path / "whole", 0, range(1, 11)).close()
    killed = write_steps(tmp_path / "killed", 0, range(1, 8))  # never closed
    killed.flush()
    path = tmp_path / "killed" / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + b'{"step": 8, "loss/m3')
    assert metrics.read(tmp_path / "killed")[-1]["step"] == 7
    write_steps(tmp_path / "killed", 4, range(5, 11)).close()
    assert path.read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    write_steps(tmp_path / "killed", 0, range(1, 11)).close()  # no checkpoint was found: from the start
    assert path.read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


def test_speed_stands_beside_the_metrics(tmp_path):
    """Cut at the checkpoint as they are; a step of which nothing was measured has no line."""
    writer = metrics.Writer(tmp_path, resume_step=0)
    for step in (1, 2, 3):
        writer.write(step, values(step))
        writer.write(step, {"mfu": 0.25 * step} if step > 1 else {}, metrics.SPEED)
    writer.close()
    assert metrics.read(tmp_path, metrics.SPEED) == [{"step": 2, "mfu": 0.5}, {"step": 3, "mfu": 0.75}]
    metrics.Writer(tmp_path, resume_step=2).close()
    assert metrics.read(tmp_path, metrics.SPEED) == [{"step": 2, "mfu": 0.5}]
    assert "mfu" not in (tmp_path / "metrics.jsonl").read_text()
    tags = [{v.tag: v.simple_value for v in event.summary.value} for event in events(tmp_path) if event.summary.value]
    assert tags[1:3] == [pytest.approx(values(2)), {"speed/mfu": 0.5}]


def test_validation_that_is_owed_is_written_anew(tmp_path):
    """The line of the checkpoint's own step goes, with those after it."""
    writer = metrics.Writer(tmp_path, resume_step=0)
    for step in (2, 4, 6):
        writer.write(step, {"loss": 1.0 / step}, metrics.VALIDATION)
    writer.close()
    for owed, kept in ((False, [2, 4]), (True, [2])):
        metrics.Writer(tmp_path, resume_step=4, owed=owed).close()
        assert [line["step"] for line in metrics.read(tmp_path, metrics.VALIDATION)] == kept


def test_what_an_older_start_still_writes_is_nowhere(tmp_path):
    """Its process was only thought to be gone."""
    stale = write_steps(tmp_path, 0, [1, 2])
    newer = write_steps(tmp_path, 2, [3])
    stale.write(3, {"loss/m3w": 99.0})
    stale.close()
    newer.write(4, values(4))
    newer.close()
    assert [line["step"] for line in metrics.read(tmp_path)] == [1, 2, 3, 4]
    assert "99.0" not in (tmp_path / "metrics.jsonl").read_text()


def test_each_line_is_on_disk_at_once(tmp_path):
    writer = write_steps(tmp_path, 0, [1])
    assert len(metrics.read(tmp_path)) == 1
    writer.close()


def test_tensorboard_events(tmp_path):
    write_steps(tmp_path, 0, [1, 2, 3]).close()
    write_steps(tmp_path, 2, [3]).close()
    found = events(tmp_path)
    scalars = [(e.step, {v.tag: v.simple_value for v in e.summary.value}) for e in found if e.summary.value]
    assert [step for step, _ in scalars] == [1, 2, 3, 3]
    assert scalars[1][1] == pytest.approx(values(2))
    starts = [e.step for e in found if e.session_log.status == SessionLog.START]
    assert starts == [1, 3]  # TensorBoard forgets what an earlier file holds from this step on


def test_an_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Cannot write metrics.*file"):
        metrics.Writer(tmp_path / "file", resume_step=0)


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    monkeypatch.setattr(metrics, "_truncate", lambda path, step: None)
    writer = metrics.Writer(tmp_path, resume_step=0)
    writer.write(1, values(1))  # it may get better
    with pytest.raises(OSError, match="No space left.*metrics.jsonl"):
        writer.flush()
    writer = metrics.Writer(tmp_path, resume_step=0, patience=0.0)
    with pytest.raises(OSError, match="No space left.*metrics.jsonl"):
        writer.write(1, values(1))


def test_what_a_full_disk_refused_is_written_when_there_is_room(tmp_path):
    """In the order of the steps, each once, also where a line was written in part."""
    writer = write_steps(tmp_path, 0, [1, 2])
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "metrics.jsonl").stat().st_size + 10, old[1]))
        for step in (3, 4):
            writer.write(step, values(step))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    writer.write(5, values(5))
    writer.close()
    whole = write_steps(tmp_path / "whole", 0, range(1, 6))
    whole.close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_plain_progress_lines():
    clock, file = Clock(), io.StringIO()
    progress = metrics.Progress("flamingo", 100, 10, every=10.0, file=file, clock=clock)
    for step in range(11, 101):
        clock.now += 60.0 if step == 11 else 0.5  # the first step compiles
        progress.update(step, {"loss/m3w": 1.25, "grad_norm": 3.0}, tokens=1000, images=0)
    progress.close()
    lines = file.getvalue().splitlines()
    assert lines[0] == "flamingo 11/100  loss m3w 1.250"
    assert lines[1] == "flamingo 31/100  loss m3w 1.250  2,000 tokens/s  0:34 left"
    assert lines[-1] == "flamingo 100/100  loss m3w 1.250  2,000 tokens/s  0:00 left"
    assert len(lines) == 6


def test_the_share_of_the_devices_best_rate():
    clock, file = Clock(), io.StringIO()
    progress = metrics.Progress("x", 3, every=1.0, file=file, clock=clock)
    for step in (1, 2, 3):
        clock.now += 2.0
        progress.update(step, {}, tokens=10, seconds_at_peak=0.9)
    assert file.getvalue().splitlines()[-1] == "x 3/3  5 tokens/s  45% MFU  0:00 left"
    assert progress.summary() == "waited 0.0% of its time for data, MFU 45.0%"


def test_images_and_hours():
    clock, file = Clock(), io.StringIO()
    progress = metrics.Progress("x", 10000, every=1.0, file=file, clock=clock)
    for step in (1, 2):
        clock.now += 1.0
        progress.update(step, {}, tokens=10, images=2500)
    assert file.getvalue().splitlines()[-1] == "x 2/10000  10 tokens/s 2,500 images/s  2:46:38 left"


def test_a_terminal_gets_a_bar():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    file = Terminal()
    progress = metrics.Progress("flamingo", 4, file=file)
    for step in range(1, 5):
        progress.update(step, {"loss/m3w": 1.25}, tokens=1000)
    progress.close()
    assert "4/4" in file.getvalue() and "m3w 1.250" in file.getvalue() and "\r" in file.getvalue()


def test_nothing_to_do():
    file = io.StringIO()
    metrics.Progress("done", 5, 5, file=file).close()
    assert file.getvalue() == ""


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics.jax, "process_index", lambda: 1)
    write_steps(tmp_path / "run", 0, [1]).close()
    assert not (tmp_path / "run").exists()
    file = io.StringIO()
    progress = metrics.Progress("x", 2, file=file)
    progress.update(1, {"loss/m3w": 1.0})
    progress.close()
    assert file.getvalue() == ""
