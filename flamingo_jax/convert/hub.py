"""Sources that are names of the Hugging Face hub: downloaded at one revision, weights and texts alone, no code."""

from __future__ import annotations

import pathlib
import re

PATTERNS = ["*.safetensors", "*.json", "tokenizer.model", "merges.txt"]
_WHAT = {"allow_patterns": PATTERNS, "ignore_patterns": ["*/*"]}  # nothing of subfolders
_ID = re.compile(r"[\w.-]+/[\w.-]+")


def fetch(source: str, revision: str | None = None) -> tuple[pathlib.Path, str | None]:
    """(folder, commit) of a folder on disk, whose commit is None, or of a hub id, which is downloaded.

    revision: a branch, tag or commit; None for the newest. Raises ValueError saying what to do without a network.
    """
    path = pathlib.Path(source)
    if path.exists() or not _ID.fullmatch(source):
        if revision:
            raise ValueError(f"--revision={revision} is of a hub id, but {source} is a folder or a file.")
        if not path.exists():
            raise ValueError(f"There is no folder {source}, and it is no hub id (owner/name) either.")
        return path, None
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        commit = huggingface_hub.HfApi().model_info(source, revision=revision).sha
        return pathlib.Path(huggingface_hub.snapshot_download(source, revision=commit, **_WHAT)), commit
    except GatedRepoError:
        reason = "its owner asks for consent first: accept the terms on its page, then `hf auth login`"
    except RevisionNotFoundError:
        raise ValueError(f"{source} has no revision {revision!r} on the hub.") from None
    except RepositoryNotFoundError:
        raise ValueError(f"There is no folder {source}, and no model of that name on the hub.") from None
    except Exception as error:  # of the network, and of the library that speaks to it
        reason = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    raise ValueError(
        f"{source} cannot be downloaded ({reason}). There is no folder of that name either: download config.json, all "
        f".safetensors files with their index and the tokenizer's files from https://huggingface.co/{source} by hand "
        "into a folder, and give that folder."
    )
