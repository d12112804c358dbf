"""Stages of a call: exact on a clock of our own, and undisturbing on real pipelines."""

import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from paretune.objectives.measuring import stages
from paretune.objectives.measuring.stages import StageTimer
from paretune.search_space.attention.sdpa_kernel import sdpa_kernel
from paretune.search_space.caching.deepcache import deepcache
from paretune.testing import picture, sibling, tiny_sdxl
from torch._dynamo.testing import CompileCounter

ALL_STAGES = ["text_encoding", "denoising", "vae_decode", "post_processing"]


class Clock:
    """A pipeline whose methods take a known time, in ms."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ms = 0.0
        monkeypatch.setattr(stages, "time", types.SimpleNamespace(perf_counter=lambda: self.now_ms / 1e3))
        self.encode_prompt = self.taking(10)
        self.scheduler = types.SimpleNamespace(scale_model_input=self.taking(1), step=self.taking(2))
        self.vae = types.SimpleNamespace(decode=self.taking(30))
        self.image_processor = types.SimpleNamespace(postprocess=self.taking(4))

    def taking(self, milliseconds: float) -> Any:
        def method() -> None:
            self.now_ms += milliseconds

        return method


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def _methods(pipeline: Any) -> dict[str, Any]:
    """What the instances themselves have of the methods that are wrapped."""
    owners = (pipeline, pipeline.scheduler, pipeline.vae, pipeline.image_processor)
    names = ("encode_prompt", "scale_model_input", "step", "decode", "postprocess")
    return {name: vars(owner)[name] for owner in owners for name in names if name in vars(owner)}


@pytest.fixture
def pipeline() -> Iterator[Any]:
    yield tiny_sdxl()
    torch.compiler.reset()


def test_each_stage_gets_its_time(clock: Clock) -> None:
    with StageTimer({"main": clock}, "cpu") as timer:
        clock.encode_prompt()
        clock.now_ms += 5  # latents
        for unet_ms in (100, 20, 40):
            clock.scheduler.scale_model_input()
            clock.now_ms += unet_ms
            clock.scheduler.step()
        clock.now_ms += 3
        clock.vae.decode()
        clock.image_processor.postprocess()
    assert timer.summary() == {
        "total_ms": 221,
        "stages": {
            "text_encoding": {"wall_ms": 10, "gpu_ms": None},
            "denoising": {
                "wall_ms": 169,
                "gpu_ms": None,
                "steps": 3,
                "step_ms": [103, 23, 43],
                "median_step_ms": 43,
            },
            "vae_decode": {"wall_ms": 30, "gpu_ms": None},
            "post_processing": {"wall_ms": 4, "gpu_ms": None},
        },
        "other_ms": 8,
    }


def test_a_preview_between_steps_is_no_part_of_a_step(clock: Clock) -> None:
    with StageTimer({"main": clock}, "cpu") as timer:
        for _ in range(2):
            clock.scheduler.scale_model_input()
            clock.now_ms += 20
            clock.scheduler.step()
            clock.vae.decode()
            clock.now_ms += 7
    assert timer.summary()["stages"]["denoising"]["step_ms"] == [23, 23]
    assert timer.summary()["stages"]["vae_decode"]["wall_ms"] == 60
    assert timer.summary()["other_ms"] == 14


def test_without_scale_model_input_the_first_step_begins_after_the_stage_before(clock: Clock) -> None:
    del clock.scheduler.scale_model_input
    with StageTimer({"main": clock}, "cpu") as timer:
        clock.encode_prompt()
        for _ in range(2):
            clock.now_ms += 20
            clock.scheduler.step()
    assert timer.summary()["stages"]["denoising"]["step_ms"] == [22, 22]
    assert timer.summary()["other_ms"] == 0


def test_a_pipeline_of_another_kind_has_no_stages(clock: Clock) -> None:
    with StageTimer({"main": types.SimpleNamespace(vae=None), "function": len}, "cpu") as timer:
        clock.now_ms += 7
    assert timer.summary() == {"total_ms": 7, "stages": {}, "other_ms": 7}


def test_the_picture_is_the_same_and_everything_is_put_back(pipeline: Any) -> None:
    expected = picture(pipeline)
    with StageTimer({"main": pipeline}, "cpu") as timer:
        assert len(_methods(pipeline)) == 5
        assert torch.equal(picture(pipeline), expected)
    assert _methods(pipeline) == {}
    summary = timer.summary()
    assert list(summary["stages"]) == ALL_STAGES
    assert summary["stages"]["denoising"]["steps"] == 4
    accounted_ms = sum(stage["wall_ms"] for stage in summary["stages"].values()) + summary["other_ms"]
    assert accounted_ms == pytest.approx(summary["total_ms"], abs=0.01)


def test_pipelines_still_see_the_schedulers_signature(pipeline: Any) -> None:
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    expected = picture(pipeline, eta=1.0)  # passed on only to a step() that takes eta
    assert not torch.equal(expected, picture(pipeline))
    with StageTimer({"main": pipeline}, "cpu"):
        assert torch.equal(picture(pipeline, eta=1.0), expected)


def test_shared_objects_count_once(pipeline: Any) -> None:
    pipelines = {
        "main": pipeline,
        "again": sibling(pipeline, pipeline.scheduler),
        "other": sibling(pipeline, DDIMScheduler.from_config(pipeline.scheduler.config)),
    }
    with StageTimer(pipelines, "cpu") as timer:
        for each in pipelines.values():
            each.set_progress_bar_config(disable=True)
            picture(each, steps=2)
    assert timer.summary()["stages"]["denoising"]["steps"] == 6
    assert all(_methods(each) == {} for each in pipelines.values())


@pytest.mark.parametrize("broken", ["decode", "unet"])
def test_a_failing_call_leaves_nothing_behind(pipeline: Any, broken: str) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise KeyError("broken")

    if broken == "decode":
        pipeline.vae.decode = fail
    else:
        pipeline.unet.forward = fail
    timer = StageTimer({"main": pipeline}, "cpu")
    with pytest.raises(KeyError, match="broken"), timer:
        picture(pipeline)
    assert _methods(pipeline) == ({"decode": fail} if broken == "decode" else {})
    with pytest.raises(RuntimeError, match="not ended"):
        timer.summary()


def test_with_techniques_that_replace_methods(pipeline: Any) -> None:
    deepcache({"main": pipeline}, interval=2, branch=0, full_percent=0)
    sdpa_kernel({"main": pipeline}, unet="math", vae="math")
    original_decode = pipeline.vae.decode
    pipeline.vae.decode = lambda *arguments, **options: original_decode(*arguments, **options)
    expected = picture(pipeline)
    methods, forward = _methods(pipeline), vars(pipeline.unet)["forward"]
    with StageTimer({"main": pipeline}, "cpu") as timer:
        assert torch.equal(picture(pipeline), expected)
    assert _methods(pipeline) == methods
    assert vars(pipeline.unet)["forward"] is forward
    assert pipeline.unet.deepcache_state["shallow_steps"] == 4
    assert list(timer.summary()["stages"]) == ALL_STAGES
    assert timer.summary()["stages"]["denoising"]["steps"] == 4


@pytest.mark.parametrize("where", ["in place", "decode", "wrapped"])
@pytest.mark.slow
def test_compiled_modules_are_not_compiled_again(pipeline: Any, where: str) -> None:
    graphs = CompileCounter()
    if where == "wrapped":
        pipeline.vae = torch.compile(pipeline.vae, backend=graphs)
        pipeline.unet.compile(backend=graphs)
    elif where == "in place":
        pipeline.vae.decoder.forward = torch.compile(pipeline.vae.decoder.forward, backend=graphs)
    else:
        pipeline.vae.decode = torch.compile(pipeline.vae.decode, backend=graphs)
    methods = _methods(pipeline)
    expected = picture(pipeline)
    compiled = graphs.frame_count
    assert compiled > 0
    with StageTimer({"main": pipeline}, "cpu") as timer:
        assert torch.equal(picture(pipeline), expected)
    picture(pipeline)
    assert graphs.frame_count == compiled
    assert _methods(pipeline) == methods
    assert list(timer.summary()["stages"]) == ALL_STAGES


def test_errors() -> None:
    with pytest.raises(ValueError, match="mps"):
        StageTimer({}, "mps")
    with pytest.raises(RuntimeError, match="not ended"):
        StageTimer({}, "cpu").summary()


@pytest.mark.gpu
def test_on_a_gpu_stages_are_times_of_the_gpu() -> None:
    pipeline = tiny_sdxl("cuda", torch.float16)
    expected = picture(pipeline)
    with StageTimer({"main": pipeline}, "cuda") as timer:
        assert torch.equal(picture(pipeline), expected)
    summary = timer.summary()
    assert list(summary["stages"]) == ALL_STAGES
    assert all(stage["gpu_ms"] > 0 for stage in summary["stages"].values())
    assert summary["stages"]["denoising"]["gpu_ms"] == pytest.approx(
        sum(summary["stages"]["denoising"]["step_ms"]), abs=0.01
    )
    assert sum(stage["gpu_ms"] for stage in summary["stages"].values()) <= summary["total_ms"]
