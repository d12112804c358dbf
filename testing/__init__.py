"""The contract of techniques and metrics, for authors of their own.

    from paretune.testing import check_technique

    def test_mine() -> None:
        check_technique(MINE)

`python -m paretune.testing FILE.py` checks everything in a file that a study names. Nothing here needs pytest, a GPU or
a model: techniques are tried on a tiny pipeline with random weights, metrics on drawn pictures.
"""

from .drawn_pictures import draw_comic, draw_scene, noisy
from .metric_contract import METRIC_CHECKS, check_metric
from .technique_contract import (
    CLOSE,
    DTYPES,
    SAME_PICTURE,
    check_artefacts,
    check_description,
    check_exported_source,
    check_later_changes,
    check_notices_untouched,
    check_promises,
    check_technique,
    combinations_that_work,
    fuse_lora,
    load_lora,
    this_machine,
)
from .tiny_flux import tiny_flux
from .tiny_sd3 import tiny_sd3, transformer_picture
from .tiny_sdxl import SIDE_PX, TINY_FACTS, ip_adapter, picture, relative_difference, sibling, tiny_sdxl
from .tiny_variants import attach_lora, detach_lora, image_to_image, inpainting, tiny_sd, with_controlnet

__all__ = [
    "CLOSE",
    "DTYPES",
    "METRIC_CHECKS",
    "SAME_PICTURE",
    "SIDE_PX",
    "TINY_FACTS",
    "attach_lora",
    "check_artefacts",
    "check_description",
    "check_exported_source",
    "check_later_changes",
    "check_metric",
    "check_notices_untouched",
    "check_promises",
    "check_technique",
    "combinations_that_work",
    "detach_lora",
    "draw_comic",
    "draw_scene",
    "fuse_lora",
    "image_to_image",
    "inpainting",
    "ip_adapter",
    "load_lora",
    "noisy",
    "picture",
    "relative_difference",
    "sibling",
    "this_machine",
    "tiny_flux",
    "tiny_sd",
    "tiny_sd3",
    "tiny_sdxl",
    "transformer_picture",
    "with_controlnet",
]
