"""Which attention kernels run, as the profiler saw it."""

from typing import Any

import pytest
import torch
from paretune.search_space import Target
from paretune.search_space.attention.sdpa_kernel import TECHNIQUE, SdpaKernelParameters, sdpa_kernel
from paretune.testing import TINY_FACTS, picture, tiny_sdxl

FLASH = "aten::_scaled_dot_product_flash_attention_for_cpu"
MATH = "aten::_scaled_dot_product_attention_math"


def _kernels(pipeline: Any) -> dict[str, int]:
    """How often each attention kernel ran in a picture of one step."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        picture(pipeline, batch=1, steps=1)
    return {event.key: event.count for event in profile.key_averages() if event.key in (FLASH, MATH)}


def test_the_chosen_kernel_runs_in_the_chosen_module() -> None:
    pipeline = tiny_sdxl()
    in_unet = len(pipeline.unet.attn_processors)
    unrestricted = _kernels(pipeline)
    assert set(unrestricted) == {FLASH}

    sdpa_kernel({"main": pipeline}, unet="math", vae="default")
    assert _kernels(pipeline) == {MATH: in_unet, FLASH: unrestricted[FLASH] - in_unet}

    pipeline = tiny_sdxl()
    sdpa_kernel({"main": pipeline}, unet="flash", vae="math")
    assert _kernels(pipeline) == {MATH: 1, FLASH: unrestricted[FLASH] - 1}


@pytest.mark.parametrize(
    ("unet", "vae", "device", "capability", "reason"),
    [
        ("default", "default", "cuda", (9, 0), "changes nothing"),
        ("cudnn", "default", "cpu", None, "CUDA"),
        ("default", "efficient", "cpu", None, "CUDA"),
        ("flash", "default", "cuda", (7, 5), "8.0"),
        ("flash", "default", "cpu", None, None),
        ("efficient", "math", "cuda", (7, 5), None),
    ],
)
def test_refuses(unet: Any, vae: Any, device: str, capability: tuple[int, int] | None, reason: str | None) -> None:
    target = Target(device=device, name="", compute_capability=capability)
    said = TECHNIQUE.why_not(target, {"main": TINY_FACTS}, SdpaKernelParameters(unet=unet, vae=vae))
    assert said is None if reason is None else said is not None and reason in said
