"""What every step cache promises between pictures: what is kept from one never reaches another."""

import functools
from typing import Any

import pytest
import torch
from paretune.search_space import Configuration, Target, denoisers, describe_pipelines, impossible, technique
from paretune.testing import picture, sibling, tiny_flux, tiny_sd3, tiny_sdxl, transformer_picture
from torch.utils._python_dispatch import TorchDispatchMode

U_NET = {
    "first_block_cache": {"threshold_permille": 400, "most_cached": 2, "branch": 1},
    "forecast_cache": {"interval": 3, "order": 1, "first_percent": 20, "forecast": "output"},
    "forecast_cache of deep features": {"interval": 2, "order": 2, "first_percent": 20, "forecast": "deep_features"},
    "pyramid_attention_broadcast": {"self_interval": 2, "cross_interval": 3, "first_percent": 10},
}
FLUX = {
    "transformer_first_block_cache": {"threshold_permille": 200},
    "taylorseer_cache": {"interval": 2, "order": 1, "first_steps": 3},
    "mag_cache": {"threshold_permille": 240, "most_cached": 2, "first_percent": 20},
    "faster_cache": {"attention_interval": 2, "unprompted_interval": 5, "first_percent": 20},
}
SD3 = {
    "forecast_cache": {"interval": 3, "order": 1, "first_percent": 20, "forecast": "output"},
}
CASES = [
    pytest.param(factory, name.split()[0], values, id=f"{factory.__name__}-{name}")
    for factory, cases in ((tiny_sdxl, U_NET), (tiny_flux, FLUX), (tiny_sd3, SD3))
    for name, values in cases.items()
]


def draw(pipeline: Any, prompt: str = "a cat", **kwargs: Any) -> torch.Tensor:
    """One picture in eight steps."""
    function = picture if hasattr(pipeline, "unet") else transformer_picture
    return function(pipeline, prompt, **{"batch": 1, "steps": 8, **kwargs})


def applied(factory: Any, name: str, values: dict[str, Any]) -> Any:
    pipeline = factory()
    technique(name).apply({"main": pipeline}, **values)
    return pipeline


@functools.cache
def untouched(factory: Any) -> torch.Tensor:
    return draw(factory())


@pytest.mark.parametrize(("factory", "name", "values"), CASES)
def test_each_picture_begins_anew_whatever_came_before(factory: Any, name: str, values: dict[str, Any]) -> None:
    """Another size, batch and prompt, a picture that was cancelled halfway, and one that another pipeline makes of the
    same modules in the middle of ours.
    """
    pipeline = applied(factory, name, values)
    alone = draw(pipeline)
    assert not torch.equal(alone, untouched(factory)), "nothing was skipped"
    assert technique(name).took_effect({"main": pipeline}, **values) is None
    assert torch.equal(draw(pipeline), alone)

    fresh = applied(factory, name, values)
    expected = draw(fresh, "the red sea", batch=2)
    draw(pipeline, guidance=1.0)
    assert torch.equal(draw(pipeline, "the red sea", batch=2), expected)

    def cancel(pipeline: Any, step: int, timestep: Any, tensors: Any) -> Any:
        if step == 4:
            raise KeyboardInterrupt
        return tensors

    with pytest.raises(KeyboardInterrupt):
        draw(pipeline, "the red sea", callback_on_step_end=cancel)
    assert torch.equal(draw(pipeline), alone)

    second = sibling(pipeline, type(pipeline.scheduler).from_config(pipeline.scheduler.config))
    between: list[torch.Tensor] = []

    def take_a_turn(pipeline: Any, step: int, timestep: Any, tensors: Any) -> Any:
        if step == 4:
            between.append(draw(second))
        return tensors

    interrupted = draw(pipeline, "the red sea", batch=2, callback_on_step_end=take_a_turn)
    assert torch.equal(between[0], alone)
    if name in ("first_block_cache", "forecast_cache"):
        # What these keep is kept for each pipeline. diffusers' hooks have one memory, and begin anew.
        assert torch.equal(interrupted, expected)
    else:
        assert (interrupted - expected).norm() < 0.1 * expected.norm()


class Waits(TorchDispatchMode):
    """Counts how often the host asks for a number: where it is on a device, that is a wait."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def waits(pipeline: Any) -> int:
    with Waits() as mode:
        draw(pipeline)
    return mode.count


@pytest.mark.parametrize(
    ("factory", "name", "more"),
    [
        (tiny_sdxl, "forecast_cache", 0),
        (tiny_sdxl, "forecast_cache of deep features", 0),
        (tiny_sdxl, "pyramid_attention_broadcast", 0),
        # One for each step that has a choice: not the first, nor those after two cached ones.
        (tiny_sdxl, "first_block_cache", 5),
        (tiny_flux, "taylorseer_cache", 0),
    ],
)
def test_what_is_known_beforehand_costs_no_wait_for_the_device(factory: Any, name: str, more: int) -> None:
    values = (U_NET if factory is tiny_sdxl else FLUX)[name]
    known = technique(name.split()[0])
    pipeline = factory()
    before = waits(pipeline)
    known.apply({"main": pipeline}, **values)
    found = waits(pipeline) - before
    assert found == 0 if more == 0 else 0 < found <= 7


def test_one_step_cache_at_a_time() -> None:
    cpu = Target(device="cpu", name="cpu")
    facts = describe_pipelines({"main": tiny_sdxl()}, [])
    for one, other in (
        ("deepcache", "first_block_cache"),
        ("deepcache", "pyramid_attention_broadcast"),
        ("first_block_cache", "forecast_cache"),
        ("forecast_cache", "pyramid_attention_broadcast"),
    ):
        reason = impossible(Configuration.of({one: {}, other: {}}), cpu, facts)
        assert reason is not None
        assert "one step cache at a time" in reason
        assert impossible(Configuration.of({other: {}}), cpu, facts) is None


@pytest.mark.parametrize(
    ("name", "factory", "reason"),
    [
        ("first_block_cache", tiny_flux, "transformer (FluxTransformer2DModel), without the skip connections"),
        ("transformer_first_block_cache", tiny_sdxl, "for U-Nets there is first_block_cache"),
        ("transformer_first_block_cache", tiny_sd3, "fails on the last block"),
        ("taylorseer_cache", tiny_sdxl, "for U-Nets there is forecast_cache"),
        ("mag_cache", tiny_sdxl, "the denoiser is a U-Net"),
        ("mag_cache", tiny_sd3, "only that of Flux"),
        ("faster_cache", tiny_sdxl, "the denoiser is a U-Net"),
        ("cache_dit", tiny_sdxl, "the denoiser is a U-Net"),
        ("guidance_interval", tiny_flux, "not known to be guided by two predictions"),
    ],
)
def test_what_has_no_effect_is_refused_before_anything_starts(name: str, factory: Any, reason: str) -> None:
    target = Target(device="cpu", name="cpu", packages=frozenset({"cache-dit>=1.5"}))
    known = technique(name)
    facts = describe_pipelines({"main": factory()}, [])
    said = known.why_not(target, facts, known.parameters())
    assert said is not None
    assert reason in said


def test_attention_to_the_prompt_needs_layers_of_its_own() -> None:
    known = technique("pyramid_attention_broadcast")
    target = Target(device="cpu", name="cpu")
    both = known.parameters(self_interval=2, cross_interval=2)
    assert known.why_not(target, describe_pipelines({"main": tiny_sdxl()}, []), both) is None
    said = known.why_not(target, describe_pipelines({"main": tiny_flux()}, []), both)
    assert said is not None
    assert "cross_interval has to be 1" in said


def test_hooks_are_on_the_denoiser_alone() -> None:
    pipeline = applied(tiny_sdxl, "pyramid_attention_broadcast", U_NET["pyramid_attention_broadcast"])
    counts = denoisers({"main": pipeline})[0].hook_cache_counts
    assert counts["hooked"] == len(pipeline.unet.attn_processors)
    draw(pipeline)
    # Of eight steps, self-attention runs in 0, 2, 4 and 6, and attention to the prompt in 0, 3 and 6.
    assert counts["ran"] == counts["hooked"] // 2 * (4 + 3)
