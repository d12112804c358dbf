"""CLIPScore: does the picture show what its prompt says? Values of different CLIP models are not comparable."""

import functools
from pathlib import Path

from torch import Tensor

from .clip_model import WEIGHTS, load_clip
from .embeddings import cosine
from .learned_metric import LearnedMetric, Scorer, quality_scorer


@functools.cache
def _load(path: Path, device: str) -> Scorer:
    clip = load_clip(path, device)

    def compute(candidate_1CHW: Tensor, prompt: str) -> Tensor:
        return (100 * cosine(clip.embed_picture(candidate_1CHW), clip.embed_prompt(prompt))).clamp_min(0)

    return quality_scorer(compute)


metric = LearnedMetric(
    name="clip_score",
    unit="points",
    higher_is_better=True,
    kind="quality",
    needs_prompt=True,
    packages=("transformers",),
    weights=WEIGHTS + ", such as openai/clip-vit-large-patch14",
    summary="100 times the cosine of the picture's and the prompt's CLIP embeddings, at least 0",
    source="Hessel et al. 2021, arXiv:2104.08718 (there with a factor of 2.5; 100 as in torchmetrics and MLPerf)",
    load=_load,
)
