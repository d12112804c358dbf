"""What techniques promise, on a Flux and on a Stable Diffusion 3 pipeline, which have a transformer."""

import functools
import importlib.util
from typing import Any

import pytest
from paretune.search_space import technique
from paretune.testing import check_exported_source, check_promises, tiny_flux, tiny_sd3, transformer_picture

TEN_STEPS = functools.partial(transformer_picture, batch=1, steps=10)
CACHE_DIT = pytest.mark.skipif(importlib.util.find_spec("cache_dit") is None, reason="cache-dit is not installed")


@pytest.mark.parametrize(
    ("factory", "name", "values"),
    [
        (tiny_flux, "transformer_first_block_cache", {"threshold_permille": 120}),
        (tiny_flux, "transformer_first_block_cache", {"threshold_permille": 200}),
        (tiny_flux, "taylorseer_cache", {"interval": 2, "order": 1, "first_steps": 3}),
        (tiny_sd3, "taylorseer_cache", {"interval": 5, "order": 2, "first_steps": 5}),
        (tiny_flux, "mag_cache", {"threshold_permille": 60, "most_cached": 3, "first_percent": 20}),
        (tiny_flux, "mag_cache", {"threshold_permille": 240, "most_cached": 2, "first_percent": 30}),
        (tiny_flux, "faster_cache", {"attention_interval": 3, "unprompted_interval": 5, "first_percent": 30}),
        (tiny_sd3, "faster_cache", {"attention_interval": 2, "unprompted_interval": 3, "first_percent": 20}),
        (tiny_sd3, "pyramid_attention_broadcast", {"self_interval": 2, "cross_interval": 1, "first_percent": 20}),
        (tiny_sd3, "guidance_interval", {"from_percent": 10, "to_percent": 80}),
        pytest.param(
            tiny_flux,
            "cache_dit",
            {"threshold_permille": 240, "first_blocks": 1, "most_cached": 1, "taylorseer": True},
            marks=CACHE_DIT,
        ),
        pytest.param(
            tiny_sd3,
            "cache_dit",
            {"threshold_permille": 240, "first_blocks": 1, "most_cached": 3, "taylorseer": False},
            marks=CACHE_DIT,
        ),
    ],
)
def test_technique_keeps_its_promises_on_a_transformer(factory: Any, name: str, values: dict[str, Any]) -> None:
    known = technique(name)
    # cache-dit changes the pipeline's class, once in a process.
    check_exported_source(known, None if name == "cache_dit" else known.parameters(**values), factory())
    check_promises(known, values, factory, TEN_STEPS)
