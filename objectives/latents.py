"""How far apart the latents are that two pictures were decoded from: before the decoder hides or adds anything.

They are reported and decide nothing, because no scale of them is known to match what a viewer sees. Only latents that
are not finite decide: a decoder may turn them into something that looks like a picture.
"""

import torch
from torch import Tensor

RELATIVE_L2 = "latent_relative_l2"
COSINE = "latent_cosine"
HIGHER_IS_BETTER = {RELATIVE_L2: False, COSINE: True}
"""The metrics of `compare_latents`, by name."""


def compare_latents(reference: Tensor, candidate: Tensor) -> dict[str, float]:
    """Two latents of one picture, floats of any equal shape -> both metrics; 0 and 1 for equal ones.

    The length of the difference over the reference's, and the cosine of the angle between them: scaling changes the
    first alone. Infinite and 0 against a reference of zeros. Raises ValueError when the shapes differ or a value is not
    finite.
    """
    if reference.shape != candidate.shape:
        raise ValueError(f"latents of {tuple(reference.shape)} and {tuple(candidate.shape)} cannot be compared")
    x, y = (latents.detach().cpu().to(torch.float64).flatten() for latents in (reference, candidate))
    if not (x.isfinite().all() and y.isfinite().all()):
        raise ValueError("latents with values that are not finite cannot be compared")
    if torch.equal(x, y):  # not left to rounding
        return {RELATIVE_L2: 0.0, COSINE: 1.0}
    length_x, length_y = x.norm(), y.norm()
    relative = (y - x).norm() / length_x
    cosine = torch.dot(x, y) / (length_x * length_y)
    return {RELATIVE_L2: float(relative), COSINE: float(cosine.nan_to_num(nan=0.0).clamp(-1, 1))}


def broken_latents(latents: Tensor) -> str | None:
    """What is wrong with the latents of one picture, any shape: "latents: ..." when some are not finite, or None."""
    nans, infinities = int(latents.isnan().sum()), int(latents.isinf().sum())
    if not nans and not infinities:
        return None
    return f"latents: {nans} of {latents.numel()} values are NaN and {infinities} infinite"
