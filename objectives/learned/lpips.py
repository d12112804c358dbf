"""LPIPS: the distance between two pictures in the features of an AlexNet, weighted as people judged differences.

The network is written out here, because the packages that have it need torchvision. Sensitive to a shift by a pixel.
"""

import functools
from pathlib import Path

import torch
from torch import Tensor, nn

from .learned_metric import LearnedMetric, Scorer, drift_scorer
from .requirements import needs_weights, read_weights, require_files

LEAST_SIDE_PX = 31  # below, nothing is left after the second pooling

# The convolutions of torchvision's alexnet, by their place in `features`: channels in and out, kernel, stride, padding.
_CONVOLUTIONS = {
    0: (3, 64, 11, 4, 2),
    3: (64, 192, 5, 1, 2),
    6: (192, 384, 3, 1, 1),
    8: (384, 256, 3, 1, 1),
    10: (256, 256, 3, 1, 1),
}
_POOLED_BEFORE = (3, 6)

# ImageNet's mean and spread, of values in [-1, 1].
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)

_TRUNK, _HEADS = "alexnet-owt-7be5be79", "alex"
_WEIGHTS = (
    f"a folder with torchvision's {_TRUNK}.pth and LPIPS 0.1's {_HEADS}.pth (in the PyPI package lpips 0.1.4), "
    "either of them also as .safetensors"
)


class _Features(nn.Module):
    """AlexNet up to its fifth ReLU, and the weights that the difference of each ReLU's channels has."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleDict(
            {
                str(place): nn.Conv2d(channels, out, kernel, stride=stride, padding=padding)
                for place, (channels, out, kernel, stride, padding) in _CONVOLUTIONS.items()
            }
        )
        self.heads = nn.ParameterList([torch.zeros(1, out, 1, 1) for _, out, *_ in _CONVOLUTIONS.values()])
        self.register_buffer("shift", torch.tensor(_SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(_SCALE).view(1, 3, 1, 1))

    def forward(self, image_BCHW: Tensor) -> list[Tensor]:
        """Values in [0, 1] -> the five ReLUs' features, each pixel's of length 1."""
        features, x = [], (2 * image_BCHW - 1 - self.get_buffer("shift")) / self.get_buffer("scale")
        for place, convolution in self.convolutions.items():
            if int(place) in _POOLED_BEFORE:
                x = nn.functional.max_pool2d(x, kernel_size=3, stride=2)
            x = convolution(x).relu()
            features.append(x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-10))
        return features

    def distance(self, reference_BCHW: Tensor, candidate_BCHW: Tensor) -> Tensor:
        """(B,): the sum over the five ReLUs, of the mean over pixels, of the channels' weighted squared differences."""
        pairs = zip(self(reference_BCHW), self(candidate_BCHW), self.heads, strict=True)
        layers = [((x - y).square() * head).sum(dim=1).mean(dim=(1, 2)) for x, y, head in pairs]
        return torch.stack(layers).sum(dim=0)


@functools.cache
def _load(path: Path, device: str) -> Scorer:
    with needs_weights("lpips", path, _WEIGHTS):
        network = _Features()
        trunk, heads = read_weights(_file(path, _TRUNK)), read_weights(_file(path, _HEADS))
        state = {
            f"convolutions.{place}.{part}": trunk[f"features.{place}.{part}"]
            for place in _CONVOLUTIONS
            for part in ("weight", "bias")
        }
        state |= {f"heads.{layer}": heads[f"lin{layer}.model.1.weight"] for layer in range(len(_CONVOLUTIONS))}
        network.load_state_dict(state, strict=False)  # not strict: shift and scale are in no file
    network = network.eval().requires_grad_(False).to(device)

    def compute(reference_1CHW: Tensor, candidate_1CHW: Tensor) -> Tensor:
        if min(reference_1CHW.shape[2:]) < LEAST_SIDE_PX:
            raise ValueError(f"lpips needs pictures of at least {LEAST_SIDE_PX} px a side")
        return network.distance(reference_1CHW.to(device), candidate_1CHW.to(device))

    return drift_scorer(compute)


def _file(folder: Path, stem: str) -> Path:
    safetensors = folder / f"{stem}.safetensors"
    if safetensors.exists():
        return safetensors
    require_files(folder, f"{stem}.pth")
    return folder / f"{stem}.pth"


metric = LearnedMetric(
    name="lpips",
    unit="1",
    higher_is_better=False,
    kind="drift",
    needs_prompt=False,
    packages=(),
    weights=_WEIGHTS,
    summary="learned perceptual distance in the features of an AlexNet, version 0.1; 0 when equal",
    source="Zhang et al. 2018, arXiv:1801.03924, https://github.com/richzhang/PerceptualSimilarity",
    load=_load,
)
