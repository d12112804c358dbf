"""NaN and infinities in the decoded floats: half-precision activations that overflowed, mostly in the decoder.

Looked for before quantisation, because an 8-bit picture shows them as plain black.
"""

from torch import Tensor

from .detector import Detector


def _compute(reference_BCHW: Tensor | None, candidate_BCHW: Tensor) -> list[str | None]:
    reasons: list[str | None] = []
    for image_CHW in candidate_BCHW:
        nans, infinities = int(image_CHW.isnan().sum()), int(image_CHW.isinf().sum())
        reasons.append(
            f"{nans} of {image_CHW.numel()} values are NaN and {infinities} infinite" if nans or infinities else None
        )
    return reasons


detector = Detector(
    name="non_finite",
    breaks=True,
    raw=True,
    summary="values that are NaN or infinite",
    source="diffusers issue 4325; model card of madebyollin/sdxl-vae-fp16-fix",
    compute=_compute,
)
