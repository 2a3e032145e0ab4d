"""Which golden cases there are: each test gets all of them by the name of its argument, and skips where there are none.

They lie in the repository (``tests/golden``) and beside it (``../shared/golden``); see the notes in ``make.py``.
"""

import pathlib

import jax
import pytest

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = (ROOT / "tests" / "golden", ROOT / ".." / "shared" / "golden")
FOLDERS = {  # argument -> what marks a folder of that kind
    "language_folder": "language/*/io.safetensors",
    "language_legacy": "language/*/config_legacy.json",
    "language_copy": "language/*/*/config.json",
    "language_rounded": "language/*/*/io.safetensors",
    "vision_folder": "vision/*/io.safetensors",
    "vision_copy": "vision/*/*/config.json",
    "open_clip_folder": "vision/*/open_clip_config.json",
    "naflex_folder": "vision/*naflex*/io.safetensors",
    "nfnet_folder": "vision/*nfnet*/io.safetensors",
    "idefics_folder": "idefics/*/io.safetensors",
    "idefics_copy": "idefics/*/*/config.json",
    "open_flamingo_folder": "open_flamingo/*/io.safetensors",
    "trained_folder": "open_flamingo/*/adamw.safetensors",
}


def pytest_generate_tests(metafunc):
    for argument in FOLDERS.keys() & set(metafunc.fixturenames):
        found: dict[str, pathlib.Path] = {}
        for root in GOLDEN:  # what is in both is taken from the repository
            for file in sorted(root.glob(FOLDERS[argument])):
                found.setdefault("-".join(file.parent.relative_to(root).parts[1:]), file.parent)
        metafunc.parametrize(argument, list(found.values()), ids=list(found), scope="module")


@pytest.fixture(autouse=True, scope="module")
def highest():
    with jax.default_matmul_precision("highest"):
        yield
