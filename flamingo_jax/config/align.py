"""Options of the re-assignment of images to sentences."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlignConfig:
    """A prepared dataset whose images are put before the sentences that they fit best, by a CLIP's cosine similarity.

    source: the dataset's folder.
    min_best: images are left out that are less similar than this to every sentence of their page (MMC4: 0.15; 0: none).
    min_similarity: images are left out that are less similar than this to the sentence that they are given
    (OpenFlamingo: 0.24; 0: none). Numbers are those of CLIP ViT-L/14; other models' similarities lie elsewhere.
    batch: images, and sentences, that the devices see at once.
    """

    source: str
    min_best: float = 0.0
    min_similarity: float = 0.0
    batch: int = 64

    def __post_init__(self):
        for name in ("min_best", "min_similarity"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be a similarity, at least 0 and below 1.")
        if self.batch < 1:
            raise ValueError(f"batch={self.batch} must be at least 1.")
