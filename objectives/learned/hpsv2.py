"""HPS v2.1: how much people would prefer this picture for its prompt. A CLIP ViT-H/14 trained on their rankings.

The picture is brought to the model as the authors' package hpsv2 1.2.0 does it (its longest side made 224 px, the rest
black). What their program computes in half precision on a GPU is float32 here.
"""

import functools
import importlib
from pathlib import Path

import torch
from torch import Tensor

from ..images import from_uint8, to_uint8
from .embeddings import cosine
from .learned_metric import LearnedMetric, Scorer, quality_scorer
from .requirements import needs_package, needs_weights, read_weights

ARCHITECTURE = "ViT-H-14"

_MEAN = (0.48145466, 0.4578275, 0.40821073)
_DEVIATION = (0.26862954, 0.26130258, 0.27577711)

_WEIGHTS = "the file HPS_v2.1_compressed.pt of xswu/HPSv2 (or its state_dict as .safetensors)"


@functools.cache
def _load(path: Path, device: str) -> Scorer:
    with needs_package("hpsv2", "open_clip_torch"):
        open_clip = importlib.import_module("open_clip")
    with needs_weights("hpsv2", path, _WEIGHTS):
        if not path.is_file():
            raise FileNotFoundError("there is no such file")
        weights = read_weights(path)
        # No `pretrained`: weights by name would be downloaded.
        model = open_clip.create_model(ARCHITECTURE)
        model.load_state_dict(weights.get("state_dict", weights))
        tokenize = open_clip.get_tokenizer(ARCHITECTURE)
    model = model.eval().requires_grad_(False).to(device)
    side_px = model.visual.image_size[0]

    def compute(candidate_1CHW: Tensor, prompt: str) -> Tensor:
        picture = model.encode_image(_prepared(candidate_1CHW, side_px).to(device))
        return cosine(picture, model.encode_text(tokenize([prompt]).to(device)))

    return quality_scorer(compute)


def _prepared(image_1CHW: Tensor, side_px: int) -> Tensor:
    """(1, 3, side, side), in the units of the model's training."""
    image = from_uint8(to_uint8(image_1CHW))
    scale = side_px / max(image.shape[2:])
    if scale != 1:
        size = [round(side * scale) for side in image.shape[2:]]
        image = torch.nn.functional.interpolate(image, size, mode="bicubic", align_corners=False, antialias=True)
    missing_y, missing_x = (side_px - side for side in image.shape[2:])
    padding = (missing_x // 2, missing_x - missing_x // 2, missing_y // 2, missing_y - missing_y // 2)
    image = torch.nn.functional.pad(image, padding)
    return (image - torch.tensor(_MEAN).view(1, 3, 1, 1)) / torch.tensor(_DEVIATION).view(1, 3, 1, 1)


metric = LearnedMetric(
    name="hpsv2",
    unit="1",
    higher_is_better=True,
    kind="quality",
    needs_prompt=True,
    packages=("open_clip_torch",),
    weights=_WEIGHTS,
    summary="human preference score v2.1: cosine of the picture's and the prompt's embeddings",
    source="Wu et al. 2023, arXiv:2306.09341, https://github.com/tgxs002/HPSv2",
    load=_load,
)
