"""DeepCache against the U-Net's own forward, between pictures, beside other pipelines, and under a compiler."""

import weakref
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionXLImg2ImgPipeline,
)
from paretune.search_space.caching.deepcache import deepcache, deepcache_plan, took_effect
from paretune.search_space.caching.guidance_cutoff import guidance_cutoff
from paretune.search_space.compiler.torch_compile import TorchCompileParameters, torch_compile
from paretune.testing import ip_adapter, picture, relative_difference, sibling, tiny_sdxl


def _inputs(batch: int = 2, height: int = 16, width: int = 16) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "sample": noise(batch, 4, height, width),
        "timestep": torch.tensor(500.0),
        "encoder_hidden_states": noise(batch, 77, 64),
        "added_cond_kwargs": {"text_embeds": noise(batch, 32), "time_ids": noise(batch, 6)},
    }


@pytest.mark.parametrize("branch", [0, 1, 2])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (15, 18)])
@torch.no_grad()
def test_both_parts_are_the_unets_own_mathematics(branch: int, height: int, width: int) -> None:
    unet = tiny_sdxl().unet
    inputs = _inputs(height=height, width=width)
    expected = unet(**inputs).sample
    deepcache({"main": type("Pipeline", (), {"unet": unet})}, interval=2, branch=branch, full_percent=0)

    noise, deep = unet.deepcache_full(**inputs, cross_attention_kwargs=None)
    assert torch.equal(noise, expected)
    # With its own features a shallow step is no approximation.
    assert torch.equal(unet.deepcache_shallow(**inputs, cross_attention_kwargs=None, deep=deep), expected)


@torch.no_grad()
def test_forward_takes_what_the_unet_takes() -> None:
    unet = tiny_sdxl().unet
    inputs = _inputs()
    expected = unet(**inputs).sample

    def residuals() -> dict[str, Any]:
        """As a T2I-Adapter gives them; the U-Net empties the list."""
        return {"down_intrablock_additional_residuals": [torch.ones(2, 32, 8, 8), torch.ones(2, 64, 8, 8)]}

    controlled = unet(**inputs, **residuals()).sample
    deepcache({"main": type("Pipeline", (), {"unet": unet})}, interval=5, branch=0, full_percent=0)

    for timestep in (500, 500.0, torch.tensor(500), torch.tensor([500.0]), torch.tensor([500, 500])):
        assert torch.equal(unet(**{**inputs, "timestep": timestep}).sample, expected)
    assert torch.equal(unet(**inputs, return_dict=False)[0], expected)
    sample, timestep, prompt = (inputs[name] for name in ("sample", "timestep", "encoder_hidden_states"))
    assert torch.equal(unet(sample, timestep, prompt, added_cond_kwargs=inputs["added_cond_kwargs"]).sample, expected)
    assert torch.equal(unet(**inputs, **residuals()).sample, controlled)
    assert not torch.equal(controlled, expected)
    assert unet.deepcache_state["shallow_steps"] == 0
    # What was kept before such a call is not used after it.
    later = {**inputs, "timestep": torch.tensor(499.0)}
    assert torch.equal(unet(**later).sample, unet.deepcache_full(**later, cross_attention_kwargs=None)[0])


@pytest.mark.parametrize(("interval", "full", "shallow"), [(2, 4, 3), (3, 3, 4), (5, 2, 5)])
def test_interval_counts_full_steps(interval: int, full: int, shallow: int) -> None:
    pipeline = tiny_sdxl()
    deepcache({"main": pipeline}, interval=interval, branch=0, full_percent=0)
    picture(pipeline, steps=7)
    state = pipeline.unet.deepcache_state
    assert (state["full_steps"], state["shallow_steps"]) == (full, shallow)


def _mid_block_calls(pipeline: Any) -> list[int]:
    """Which calls of the U-Net reach its middle, from now on: the numbers of the full steps."""
    full: list[int] = []
    calls: list[None] = []
    pipeline.unet.conv_in.register_forward_hook(lambda module, arguments, output: calls.append(None))
    pipeline.unet.mid_block.register_forward_hook(lambda module, arguments, output: full.append(len(calls) - 1))
    return full


EDM = {"sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5}


@pytest.mark.parametrize(
    ("scheduler", "calls"),
    [
        (EDMDPMSolverMultistepScheduler(**EDM), 20),
        (EDMEulerScheduler(**EDM), 20),
        (DPMSolverMultistepScheduler(timestep_spacing="trailing"), 20),
        (PNDMScheduler(skip_prk_steps=True), 21),
        (HeunDiscreteScheduler(), 39),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "config") else str(value),
)
@pytest.mark.parametrize("full_percent", [0, 70])
def test_the_share_of_full_steps_is_the_one_asked_for_with_any_scheduler(
    scheduler: Any, calls: int, full_percent: int
) -> None:
    pipeline = tiny_sdxl()
    pipeline.scheduler = scheduler
    deepcache({"main": pipeline}, interval=3, branch=0, full_percent=full_percent)
    full = _mid_block_calls(pipeline)
    picture(pipeline, batch=1, steps=20)
    plan = deepcache_plan(calls, 3, full_percent)
    assert full == [step for step, is_full in enumerate(plan) if is_full]
    assert full[: calls * full_percent // 100] == list(range(calls * full_percent // 100))
    assert took_effect({"main": pipeline}, interval=3, branch=0, full_percent=full_percent) is None
    other = 70 - full_percent
    reason = took_effect({"main": pipeline}, interval=3, branch=0, full_percent=other)
    assert reason == (
        f"{len(full)} of {calls} steps computed the whole U-Net, and {sum(deepcache_plan(calls, 3, other))} were to"
    )


def test_a_pipeline_that_calls_more_than_once_for_a_step_gets_whole_steps() -> None:
    """Windows of a large picture: what was kept of one is nothing for the next."""

    class Windows:
        def __init__(self, unet: Any) -> None:
            self.unet = unet
            self.scheduler = DDIMScheduler()
            self.scheduler.set_timesteps(4)

        @torch.no_grad()
        def __call__(self, windows: list[dict[str, Any]]) -> list[torch.Tensor]:
            return [
                self.unet(**{**window, "timestep": timestep}).sample
                for timestep in self.scheduler.timesteps
                for window in windows
            ]

    one, two = _inputs(), _inputs()
    two["sample"] = -two["sample"]
    untouched, pipeline = Windows(tiny_sdxl().unet), Windows(tiny_sdxl().unet)
    deepcache({"main": pipeline}, interval=2, branch=0, full_percent=0)
    for made, expected in zip(pipeline([one, two]), untouched([one, two]), strict=True):
        assert torch.equal(made, expected)
    reason = took_effect({"main": pipeline}, interval=2, branch=0, full_percent=0)
    assert reason == "every step computed the whole U-Net"


def test_what_was_kept_is_let_go_at_the_end_of_a_picture() -> None:
    pipeline = tiny_sdxl()
    deepcache({"main": pipeline}, interval=2, branch=0, full_percent=0)
    kept: list[Any] = []
    full, shallow = pipeline.unet.deepcache_full, pipeline.unet.deepcache_shallow

    def noted(*arguments: Any) -> Any:
        kept.append(weakref.ref(arguments[-1]))
        return shallow(*arguments)

    pipeline.unet.deepcache_shallow = noted
    picture(pipeline, steps=4)
    assert len(kept) == 2
    assert all(each() is None for each in kept)
    assert pipeline.unet.deepcache_full is full


def test_a_forward_that_was_put_back_is_noticed() -> None:
    pipeline = tiny_sdxl()
    original = pipeline.unet.forward
    deepcache({"main": pipeline}, interval=2, branch=0, full_percent=0)
    picture(pipeline)
    pipeline.unet.forward = original
    with pytest.raises(RuntimeError, match=r"deepcache: the forward\(\) of this UNet2DConditionModel was replaced"):
        picture(pipeline)


def test_applied_twice_is_refused() -> None:
    pipeline = tiny_sdxl()
    deepcache({"main": pipeline}, interval=2, branch=0, full_percent=0)
    with pytest.raises(ValueError, match="deepcache: it is applied to this UNet2DConditionModel already"):
        deepcache({"main": pipeline}, interval=2, branch=0, full_percent=0)


def test_higher_branches_lose_less() -> None:
    reference = picture(tiny_sdxl(), steps=8)
    differences = []
    for branch in (0, 1, 2):
        pipeline = tiny_sdxl()
        deepcache({"main": pipeline}, interval=2, branch=branch, full_percent=0)
        differences.append(relative_difference(picture(pipeline, steps=8), reference))
    assert 0 < differences[2] < differences[0] < 0.1


def test_pipelines_with_their_own_schedulers_share_a_unet() -> None:
    """Requests of one do not disturb the other's, whatever comes before."""

    def pair() -> tuple[Any, Any]:
        one = tiny_sdxl()
        two = sibling(one, DDIMScheduler(timestep_spacing="trailing"))
        deepcache({"one": one, "two": two}, interval=3, branch=0, full_percent=0)
        return one, two

    alone_one, alone_two = picture(pair()[0], steps=6), picture(pair()[1], "a dog", steps=4)
    one, two = pair()
    assert one.unet is two.unet
    for _ in range(2):
        assert torch.equal(picture(one, steps=6), alone_one)
        assert torch.equal(picture(two, "a dog", steps=4), alone_two)
    assert took_effect({"one": one, "two": two}, interval=3, branch=0, full_percent=0) is None


def test_a_swapped_scheduler_changes_nothing() -> None:
    pipeline = tiny_sdxl()
    deepcache({"main": pipeline}, interval=3, branch=0, full_percent=0)
    picture(pipeline, steps=4)
    for scheduler in (DPMSolverMultistepScheduler, HeunDiscreteScheduler):
        pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config)
        fresh = tiny_sdxl()
        fresh.scheduler = scheduler.from_config(fresh.scheduler.config)
        deepcache({"main": fresh}, interval=3, branch=0, full_percent=0)
        assert torch.equal(picture(pipeline, steps=4), picture(fresh, steps=4))


def test_a_cancelled_picture_leaves_nothing_behind() -> None:
    """The next one starts below the timestep where the cancelled one stopped, so the timestep alone says nothing."""

    def variant(pipeline: Any) -> torch.Tensor:
        images = StableDiffusionXLImg2ImgPipeline(**pipeline.components)(
            "a red sea",
            image=torch.full((1, 3, 64, 64), 0.5),
            strength=0.5,
            num_inference_steps=8,
            generator=torch.Generator().manual_seed(3),
            output_type="pt",
        ).images
        assert isinstance(images, torch.Tensor)
        return images

    def cancel(pipeline: Any, step: int, timestep: Any, tensors: Any) -> Any:
        if step == 1:
            raise KeyboardInterrupt
        return tensors

    fresh, used = tiny_sdxl(), tiny_sdxl()
    for pipeline in (fresh, used):
        deepcache({"main": pipeline}, interval=4, branch=0, full_percent=0)
    with pytest.raises(KeyboardInterrupt):
        picture(used, batch=1, steps=8, callback_on_step_end=cancel)
    assert torch.equal(variant(used), variant(fresh))


def test_guidance_that_stops_halfway_is_noticed() -> None:
    pipeline = tiny_sdxl()
    deepcache({"main": pipeline}, interval=3, branch=0, full_percent=0)
    guidance_cutoff({"main": pipeline}, guided_percent=60)
    first = picture(pipeline, steps=8)
    assert torch.equal(picture(pipeline, steps=8), first)
    state = pipeline.unet.deepcache_state
    assert state["shallow_steps"] >= 8
    # Of 8 steps, 60 % are 4: the others have no guidance.
    assert pipeline.unet.guidance_counts["unguided"] == 2 * 4
    assert took_effect({"main": pipeline}, interval=3, branch=0, full_percent=0) is None


def test_ip_adapters_come_and_go() -> None:
    torch.manual_seed(0)
    embeds = [torch.randn(2, 1, 8)]
    untouched, pipeline = tiny_sdxl(), tiny_sdxl()
    adapter = ip_adapter(untouched.unet)
    deepcache({"main": pipeline}, interval=3, branch=0, full_percent=0)
    before = picture(pipeline)
    for each in (untouched, pipeline):
        each.load_ip_adapter(adapter, subfolder="", weight_name="", image_encoder_folder=None)
    # One step is a full one.
    expected = picture(untouched, steps=1, ip_adapter_image_embeds=embeds)
    assert torch.equal(picture(pipeline, steps=1, ip_adapter_image_embeds=embeds), expected)
    assert relative_difference(picture(pipeline, ip_adapter_image_embeds=embeds), before) > 1e-3
    pipeline.unload_ip_adapter()
    assert torch.equal(picture(pipeline), before)


@pytest.mark.usefixtures("traced_only")
def test_each_part_compiles_as_one_graph() -> None:
    reference = tiny_sdxl()
    deepcache({"main": reference}, interval=2, branch=1, full_percent=0)
    expected = picture(reference, batch=1, steps=4)

    pipeline = tiny_sdxl()
    deepcache({"main": pipeline}, interval=2, branch=1, full_percent=0)
    how = TorchCompileParameters().model_dump()
    torch_compile({"main": pipeline}, **how)
    assert torch.equal(picture(pipeline, batch=1, steps=4), expected)
    counters = torch._dynamo.utils.counters
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == 2
    with torch.compiler.set_stance("fail_on_recompile"):
        assert torch.equal(picture(pipeline, batch=1, steps=4), expected)


def test_unknown_unets_are_refused() -> None:
    pipeline = tiny_sdxl()
    pipeline.unet.class_embedding = torch.nn.Identity()
    with pytest.raises(ValueError, match="class labels"):
        deepcache({"main": pipeline}, interval=2, branch=0, full_percent=0)
    pipeline = tiny_sdxl()
    pipeline.unet.up_blocks[-1] = torch.nn.Identity()
    with pytest.raises(ValueError, match="Identity"):
        deepcache({"main": pipeline}, interval=2, branch=0, full_percent=0)
    with pytest.raises(ValueError, match="branch 3"):
        deepcache({"main": tiny_sdxl()}, interval=2, branch=3, full_percent=0)


def test_the_noisy_part_of_the_schedule_can_be_computed_whole() -> None:
    pipeline = tiny_sdxl()
    deepcache({"main": pipeline}, interval=5, branch=0, full_percent=50)
    picture(pipeline, steps=10)
    state = pipeline.unet.deepcache_state
    # 10 steps: the five noisy ones are full, the last of them serves the four after it, and one is left over.
    assert state["full_steps"] >= 5
    assert state["shallow_steps"] == 10 - state["full_steps"] > 0

    from_the_start = tiny_sdxl()
    deepcache({"main": from_the_start}, interval=5, branch=0, full_percent=0)
    assert relative_difference(picture(pipeline), picture(tiny_sdxl())) < relative_difference(
        picture(from_the_start), picture(tiny_sdxl())
    )
