"""How alike two embeddings are."""

import torch
from torch import Tensor


def cosine(x_1D: Tensor, y_1D: Tensor) -> Tensor:
    """The cosine of the angle between two (1, D) vectors -> one float64 on the CPU; exactly 1 for equal vectors."""
    x, y = (embedding.to(device="cpu", dtype=torch.float64).flatten() for embedding in (x_1D, y_1D))
    # The product of equal unit vectors is 1 only up to rounding; their distance is exactly 0.
    distance: Tensor = (x / x.norm() - y / y.norm()).square().sum()
    return 1 - distance / 2
