"""Speed: by a clock that is told, over fake devices whose best rate is known or not."""

import resource

import jax
import pytest

from flamingo_jax.config import MeshConfig
from flamingo_jax.training import chips, sharding, speed


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def made(monkeypatch, peak, flops=4e12, first=3, images=10):
    monkeypatch.setattr(chips, "peak", lambda kind: peak)
    clock = Clock()
    mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:2])
    return speed.Speed(mesh, {"tokens": 100, "images": images}, flops, first, clock), clock


def test_rates_between_two_looks(monkeypatch):
    one, clock = made(monkeypatch, peak=8e12)
    clock.now, _ = 100.0, one.waited(50.0)
    one.done(1)  # compiled in 100 s
    assert one.look(1) == {}
    clock.now = 101.0
    one.done(2)
    assert one.look(2) == {}
    for update in range(3, 7):
        clock.now += 0.5
        one.done(update)
    one.waited(0.5)
    # 4e12 operations in half a second on two devices of 8e12 a second
    expected = {"seconds_per_step": 0.5, "tokens_per_second": 200, "images_per_second": 20, "data_wait": 0.25}
    assert one.look(6) == pytest.approx(expected | {"tflops_per_device": 4.0, "mfu": 0.5})
    assert one.look(6) == {}
    clock.now += 2.0
    one.done(7)
    assert one.look(7) == pytest.approx(
        {"seconds_per_step": 2.0, "tokens_per_second": 50, "images_per_second": 5, "data_wait": 0}
        | {"tflops_per_device": 1.0, "mfu": 0.125}
    )
    assert one.seconds_at_peak == 0.25


def test_what_is_not_known_is_not_told(monkeypatch):
    always = {"seconds_per_step", "tokens_per_second", "data_wait"}
    for peak, flops, more in ((None, 4e12, {"tflops_per_device"}), (8e12, 0, set())):
        one, clock = made(monkeypatch, peak, flops, first=1, images=0)
        one.done(0)
        clock.now = 1.0
        assert one.look(1).keys() == always | more and one.seconds_at_peak == 0


def test_memory_is_that_of_the_fullest_device_and_of_the_host():
    class Device:
        def __init__(self, **stats):
            self.memory_stats = lambda: stats or None

    gib = 2**30
    two = [Device(bytes_in_use=2 * gib, peak_bytes_in_use=7 * gib), Device(bytes_in_use=3 * gib, peak_bytes_in_use=gib)]
    found = speed.memory(two)
    assert found.pop("memory_host") == pytest.approx(_high_water(), rel=0.5)
    assert found == {"memory": 3.0, "memory_peak": 7.0}
    assert speed.memory([Device()]).keys() == speed.memory().keys() == {"memory_host"}


def _high_water():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
