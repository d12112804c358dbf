"""CLIP-I: do both pictures show the same thing? Blind to detail: content, composition and style count."""

import functools
from pathlib import Path

from torch import Tensor

from .clip_model import WEIGHTS, load_clip
from .embeddings import cosine
from .learned_metric import LearnedMetric, Scorer, drift_scorer


@functools.cache
def _load(path: Path, device: str) -> Scorer:
    clip = load_clip(path, device)

    def compute(reference_1CHW: Tensor, candidate_1CHW: Tensor) -> Tensor:
        return cosine(clip.embed_picture(reference_1CHW), clip.embed_picture(candidate_1CHW))

    return drift_scorer(compute)


metric = LearnedMetric(
    name="clip_i",
    unit="1",
    higher_is_better=True,
    kind="drift",
    needs_prompt=False,
    packages=("transformers",),
    weights=WEIGHTS + ", such as openai/clip-vit-large-patch14",
    summary="cosine of the two pictures' CLIP embeddings; 1 when equal",
    source="Ruiz et al. 2023 (DreamBooth), arXiv:2208.12242",
    load=_load,
)
