"""PickScore: which picture would people pick for this prompt? A CLIP model that was trained on their choices."""

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
        return clip.logit_scale * cosine(clip.embed_picture(candidate_1CHW), clip.embed_prompt(prompt))

    return quality_scorer(compute)


metric = LearnedMetric(
    name="pick_score",
    unit="points",
    higher_is_better=True,
    kind="quality",
    needs_prompt=True,
    packages=("transformers",),
    weights=WEIGHTS + ": yuvalkirstain/PickScore_v1, with the processor of laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    summary="human preference for the picture, given its prompt, by a CLIP model trained on people's choices",
    source="Kirstain et al. 2023, arXiv:2305.01569",
    load=_load,
)
