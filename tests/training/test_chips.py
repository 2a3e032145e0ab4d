"""The best rates of devices, by the names that JAX has for them."""

import jax
import pytest

from flamingo_jax.training import chips


@pytest.mark.parametrize(
    "kind, tera",
    [
        ("TPU v4", 275),
        ("TPU v5 lite", 197),
        ("TPU v5", 459),
        ("TPU v6 lite", 918),
        ("TPU7x", 1153.5),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA H100 80GB HBM3", 989.5),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H200", 989.5),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
    ],
)
def test_known_devices(kind, tera):
    assert chips.peak(kind) == tera * 1e12


@pytest.mark.parametrize("kind", ["cpu", "TPU v9", "NVIDIA A100-SXM4-80GB MIG 1g.10gb", "NVIDIA A1000", "NVIDIA A10G"])
def test_unknown_devices_have_none(kind):
    assert chips.peak(kind) is None


def test_this_machine_has_none():
    assert chips.peak(jax.devices()[0].device_kind) is None
