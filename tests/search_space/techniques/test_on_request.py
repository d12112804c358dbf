"""Samplers change the picture by design, and do what they say."""

from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from paretune.search_space import describe_pipelines, technique
from paretune.testing import picture, sibling, this_machine, tiny_sdxl


def test_fewer_steps_are_the_steps_of_a_request_for_fewer() -> None:
    pipeline = tiny_sdxl()
    second = sibling(pipeline, type(pipeline.scheduler).from_config(pipeline.scheduler.config))
    shared = sibling(pipeline, pipeline.scheduler)
    technique("fewer_steps").apply({"main": pipeline, "second": second, "shared": shared}, percent=50)
    expected = picture(tiny_sdxl(), steps=3)
    for each in (pipeline, second, shared):
        assert torch.equal(picture(each, steps=6), expected)


def test_another_scheduler_keeps_the_settings_of_the_pipelines_own() -> None:
    pipeline = tiny_sdxl()
    before = pipeline.scheduler.config
    technique("scheduler").apply({"main": pipeline, "settings": {"unet": 3}}, scheduler="UniPCMultistepScheduler")
    assert type(pipeline.scheduler).__name__ == "UniPCMultistepScheduler"
    assert pipeline.scheduler.config.beta_end == before.beta_end
    assert not torch.equal(picture(pipeline), picture(tiny_sdxl()))


@pytest.mark.parametrize(
    ("own", "options", "refused"),
    [
        (EulerDiscreteScheduler, {"prediction_type": "v_prediction"}, False),
        (DDIMScheduler, {"trained_betas": [0.001, 0.002, 0.004]}, False),
        (EDMEulerScheduler, {}, True),
        (FlowMatchEulerDiscreteScheduler, {}, True),
        (DPMSolverMultistepScheduler, {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}, True),
    ],
)
def test_no_scheduler_takes_the_place_of_one_for_other_noise(own: Any, options: dict[str, Any], refused: bool) -> None:
    pipeline = tiny_sdxl()
    pipeline.scheduler = own(**options)
    facts = describe_pipelines({"main": pipeline}, [])
    known = technique("scheduler")
    for parameters in known.parameters.combinations():
        reason = known.why_not(this_machine("cpu"), facts, parameters)
        assert (reason is not None and "says nothing of betas" in reason) == (
            refused and parameters.model_dump()["scheduler"] != own.__name__
        )
