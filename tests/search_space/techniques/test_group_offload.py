"""Group offloading with streams takes one of its own hooks off at the end of the first call: what wraps it stays."""

import functools
import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.hooks import group_offloading as of_diffusers
from paretune.search_space import Configuration, technique
from paretune.search_space._calls import wrap_forward
from paretune.search_space._modules import denoisers, other_modules, text_encoders, vaes
from paretune.search_space._recipes import RECIPES
from paretune.search_space.memory import group_offload as offloading
from paretune.testing import CLOSE, picture, relative_difference, tiny_sdxl

LEVELS = ("block_level", "leaf_level")
Apply = Callable[..., None]


@pytest.fixture
def group_offload(monkeypatch: pytest.MonkeyPatch) -> Apply:
    """The technique on the CPU: the hooks are diffusers' own, and a stand-in takes the place of the stream."""

    class Backend:
        def __init__(self, device: Any) -> None:
            pass

        @staticmethod
        def current_stream() -> Any:
            return SimpleNamespace(synchronize=lambda: None)

        @staticmethod
        def stream(stream: Any) -> Any:
            return torch.no_grad()

    def enable(module: Any, *, offload_type: str, num_blocks_per_group: Any, use_stream: bool, **devices: Any) -> None:
        where = torch.device("cpu")
        config = of_diffusers.GroupOffloadingConfig(
            onload_device=where,
            offload_device=where,
            offload_type=of_diffusers.GroupOffloadingType(offload_type),
            non_blocking=False,
            record_stream=False,
            low_cpu_mem_usage=False,
            num_blocks_per_group=num_blocks_per_group,
            stream=SimpleNamespace(synchronize=lambda: None) if use_stream else None,
        )
        of_diffusers._apply_group_offloading(module, config)

    monkeypatch.setattr(of_diffusers, "TorchDeviceBackend", Backend)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    source = inspect.getsource(offloading.group_offload)
    namespace: dict[str, Any] = {
        **{"Any": Any, "denoisers": denoisers, "vaes": vaes},
        **{"text_encoders": text_encoders, "other_modules": other_modules},
    }
    exec(source.replace('"cuda"', '"cpu"'), namespace)

    def apply(pipelines: dict[str, Any], level: str = "block_level") -> None:
        for denoiser in denoisers(pipelines):
            monkeypatch.setattr(denoiser, "enable_group_offload", functools.partial(enable, denoiser))
        namespace["group_offload"](pipelines, level=level, use_stream=True)

    return apply


def counting(pipeline: Any, name: str = "mine") -> list[str]:
    """A wrapper of forward() that counts, as a user's own technique that is applied last."""
    calls: list[str] = []

    def around(inner: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        return inner(*args, **kwargs)

    wrap_forward(pipeline.unet, name, around)
    return calls


@pytest.mark.parametrize("level", LEVELS)
def test_what_wraps_group_offloading_is_called_in_every_step(group_offload: Apply, level: str) -> None:
    pipeline = tiny_sdxl()
    expected = picture(pipeline, batch=1)
    inner = counting(pipeline, "before")
    group_offload({"main": pipeline}, level)
    outer, outermost = counting(pipeline, "after"), counting(pipeline, "after that")
    for _ in range(2):
        assert torch.equal(picture(pipeline, batch=1), expected)
    assert len(inner) == len(outer) == len(outermost) == 8
    names = {hook for module in pipeline.unet.modules() for hook in hooks_of(module)}
    assert not any("lazy" in name or "tracker" in name for name in names), "diffusers has seen the order of the layers"
    assert any(isinstance(hook, of_diffusers.GroupOffloadingHook) for hook in hooks_of(pipeline.unet).values())


def hooks_of(module: Any) -> dict[str, Any]:
    return dict(getattr(getattr(module, "_diffusers_hook", None), "hooks", {}))


def test_text_encoders_leave_in_every_picture_beside_group_offloading(
    group_offload: Apply, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipe for least memory."""
    import accelerate

    pipeline = tiny_sdxl()
    left: list[Any] = []

    def hook_of(encoder: Any, device: Any) -> tuple[Any, Any]:
        monkeypatch.setattr(encoder, "parameters", lambda: iter([SimpleNamespace(device=torch.device("cuda"))]))
        return encoder, SimpleNamespace(offload=lambda: left.append(encoder))

    group_offload({"main": pipeline})
    monkeypatch.setattr(accelerate, "cpu_offload_with_hook", hook_of)
    technique("text_encoder_offload").apply({"main": pipeline})
    noise, prompt = torch.zeros(1, 4, 8, 8), torch.zeros(1, 77, pipeline.unet.config.cross_attention_dim)
    added = {"text_embeds": torch.zeros(1, 32), "time_ids": torch.zeros(1, 6)}
    for step in range(1, 4):
        pipeline.unet(noise, 1, prompt, added_cond_kwargs=added)
        assert len(left) == 2 * step


def test_a_forward_that_is_replaced_later_is_still_noticed(group_offload: Apply) -> None:
    pipeline = tiny_sdxl()
    before = pipeline.unet.forward
    group_offload({"main": pipeline})
    counting(pipeline)
    picture(pipeline, batch=1)
    pipeline.unet.forward = before
    with pytest.raises(RuntimeError, match="mine: the forward\\(\\) of this UNet2DConditionModel was replaced"):
        picture(pipeline, batch=1)


def test_wrappers_stay_when_diffusers_takes_its_hooks_off_to_load_adapters(group_offload: Apply) -> None:
    pipeline = tiny_sdxl()
    group_offload({"main": pipeline})
    calls = counting(pipeline)
    expected = picture(pipeline, batch=1)
    of_diffusers._maybe_remove_and_reapply_group_offloading(pipeline.unet)
    assert torch.equal(picture(pipeline, batch=1), expected)
    assert torch.equal(picture(pipeline, batch=1), expected)
    assert len(calls) == 12
    assert any(isinstance(hook, of_diffusers.GroupOffloadingHook) for hook in hooks_of(pipeline.unet).values())


TOGETHER: dict[str, dict[str, Any]] = {
    "dtype": {"dtype": "float32"},
    "fused_qkv": {},
    "channels_last": {},
    "torchao_quantization": {"scheme": "int8_weight_only"},
    "forecast_cache": {"interval": 2, "order": 1, "first_percent": 10, "forecast": "output"},
    "pyramid_attention_broadcast": {"self_interval": 2, "cross_interval": 1, "first_percent": 10},
    "guidance_cutoff": {"guided_percent": 90},
    "sdpa_kernel": {"unet": "math", "vae": "math"},
    "layerwise_casting": {},
}
"""What watches or wraps the denoiser, and may be combined with group offloading."""
CHANGES_WEIGHTS = ("dtype", "fused_qkv", "channels_last", "torchao_quantization", "layerwise_casting")
"""What comes before it only, because diffusers copies the weights."""


@pytest.mark.parametrize(
    ("name", "offloaded_first"),
    [*((name, False) for name in TOGETHER), *((name, True) for name in TOGETHER if name not in CHANGES_WEIGHTS)],
)
def test_other_techniques_keep_their_effect(group_offload: Apply, name: str, offloaded_first: bool) -> None:
    """In our order, and on a pipeline that comes offloaded."""
    known = technique(name)
    for package in known.all_packages():
        pytest.importorskip(package.partition(">")[0])
    parameters = Configuration.of({name: TOGETHER[name]}).steps[0].values()
    alone, both = tiny_sdxl(), tiny_sdxl()
    known.apply({"main": alone}, **parameters)
    steps: list[Any] = [lambda: known.apply({"main": both}, **parameters), lambda: group_offload({"main": both})]
    for step in reversed(steps) if offloaded_first else steps:
        step()
    expected = picture(alone, batch=1, steps=5)
    for _ in range(2):
        assert relative_difference(picture(both, batch=1, steps=5), expected) <= CLOSE["cpu"]
    assert known.took_effect({"main": both}, **parameters) is None


@pytest.mark.gpu
def test_the_recipe_with_group_offloading_makes_the_same_pictures_on_a_gpu() -> None:
    """Weights arrive by stream, text encoders leave: the pair as the recipe has it, four pictures."""
    recipe = next(recipe for recipe in RECIPES if "group_offload" in recipe.techniques)
    expected = picture(tiny_sdxl("cuda", torch.float32), batch=1)
    pipeline = tiny_sdxl()
    applied = Configuration.of(recipe.techniques).steps
    for step in applied:
        technique(step.technique).apply({"main": pipeline}, **step.values())
    pipeline.vae.to("cuda")
    for _ in range(4):
        assert relative_difference(picture(pipeline, batch=1), expected) <= CLOSE["cuda"]
    for step in applied:
        assert technique(step.technique).took_effect({"main": pipeline}, **step.values()) is None
