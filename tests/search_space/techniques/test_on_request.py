"""Samplers change the picture by design, and do what they say."""

import torch
from paretune.search_space import technique
from paretune.testing import picture, sibling, tiny_sdxl


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
