"""DreamSim: how far apart two pictures are to people, layout, pose and content above all. An ensemble of three ViTs.

The package builds one of the three with the Python code in the folder (DINO's repository, as torch.hub keeps it): give
it only a folder that the package filled itself.
"""

import contextlib
import functools
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ..images import from_uint8
from .embeddings import cosine
from .learned_metric import LearnedMetric, Scorer, drift_scorer
from .pixels import to_pil
from .requirements import needs_package, needs_weights, require_files

SIDE_PX = 224

# All that the package would otherwise download.
_FILES = (
    "dino_vitb16_pretrain.pth",
    "open_clip_vitb16_pretrain.pth.tar",
    "clip_vitb16_pretrain.pth.tar",
    "ensemble_lora/adapter_config.json",
    "facebookresearch_dino_main/hubconf.py",
    "checkpoints/dino_vitbase16_pretrain.pth",
)
_ADAPTERS = ("ensemble_lora/adapter_model.safetensors", "ensemble_lora/adapter_model.bin")

_WEIGHTS = "the folder that dreamsim(cache_dir=...) of the package dreamsim 0.2.1 filled with its ensemble"


@functools.cache
def _load(path: Path, device: str) -> Scorer:
    with needs_package("dreamsim", "dreamsim"):
        package = importlib.import_module("dreamsim")
    with needs_weights("dreamsim", path, _WEIGHTS):
        require_files(path, *_FILES)
        if not any((path / adapter).exists() for adapter in _ADAPTERS):
            require_files(path, _ADAPTERS[0])
        with _contained():
            # Not moved afterwards: the package keeps the device for tensors that `to` does not know.
            model, _ = package.dreamsim(cache_dir=str(path), device=device)

    def compute(reference_1CHW: Tensor, candidate_1CHW: Tensor) -> Tensor:
        embeddings = [model.embed(_prepared(image).to(device)) for image in (reference_1CHW, candidate_1CHW)]
        return 1 - cosine(*embeddings)

    return drift_scorer(compute)


@contextlib.contextmanager
def _contained() -> Iterator[None]:
    """The package moves torch.hub's folder for the whole process, prints, and lets torch.hub unpickle; not here."""
    hub, variable = torch.hub.get_dir(), "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(variable)
    os.environ[variable] = "1"
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        torch.hub.set_dir(hub)
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before


def _prepared(image_1CHW: Tensor) -> Tensor:
    """(1, 3, 224, 224) in [0, 1], squeezed to a square as the package's own preprocessing does it."""
    squeezed = to_pil(image_1CHW).resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)
    pixels = torch.frombuffer(bytearray(squeezed.tobytes()), dtype=torch.uint8)
    return from_uint8(pixels.view(1, SIDE_PX, SIDE_PX, 3).permute(0, 3, 1, 2))


metric = LearnedMetric(
    name="dreamsim",
    unit="1",
    higher_is_better=False,
    kind="drift",
    needs_prompt=False,
    packages=("dreamsim",),
    weights=_WEIGHTS,
    summary="distance in an ensemble of three ViTs that was tuned to people's judgements; 0 when equal",
    source="Fu et al. 2023, arXiv:2306.09344, https://github.com/ssundaram21/dreamsim",
    load=_load,
)
