"""Guidance in the middle of a picture, by the batch that the denoiser computes."""

import torch
from paretune.search_space.caching.guidance_interval import guidance_interval, guided_interval, took_effect
from paretune.testing import picture, tiny_sd3, tiny_sdxl, transformer_picture


def test_the_interval_in_steps() -> None:
    assert list(guided_interval(10, 20, 60)) == [2, 3, 4, 5]
    assert list(guided_interval(30, 10, 80)) == list(range(3, 24))
    assert list(guided_interval(4, 10, 100)) == [1, 2, 3]
    assert list(guided_interval(2, 30, 60)) == [1]


def test_steps_outside_of_the_interval_compute_half_the_batch() -> None:
    pipeline = tiny_sdxl()
    guidance_interval({"main": pipeline}, from_percent=20, to_percent=60)
    seen: list[int] = []
    pipeline.unet.conv_in.register_forward_hook(lambda module, arguments, output: seen.append(output.shape[0]))
    picture(pipeline, batch=2, steps=10)
    assert seen == [2, 2, 4, 4, 4, 4, 2, 2, 2, 2]
    assert took_effect({"main": pipeline}, from_percent=20, to_percent=60) is None


def test_a_transformer_that_guides_by_a_doubled_batch() -> None:
    pipeline = tiny_sd3()
    guidance_interval({"main": pipeline}, from_percent=20, to_percent=60)
    seen: list[int] = []
    pipeline.transformer.pos_embed.register_forward_hook(lambda module, arguments, output: seen.append(output.shape[0]))
    transformer_picture(pipeline, batch=1, steps=5)
    assert seen == [1, 2, 2, 1, 1]


def test_unguided_requests_are_left_alone() -> None:
    pipeline = tiny_sdxl()
    guidance_interval({"main": pipeline}, from_percent=10, to_percent=80)
    assert torch.equal(picture(pipeline, guidance=1.0), picture(tiny_sdxl(), guidance=1.0))
    reason = took_effect({"main": pipeline}, from_percent=10, to_percent=80)
    assert reason == "no step ran without guidance that would have had it"


def test_another_share_than_the_one_asked_for_is_noticed() -> None:
    pipeline = tiny_sdxl()
    guidance_interval({"main": pipeline}, from_percent=20, to_percent=60)
    picture(pipeline, batch=1, steps=5)
    assert took_effect({"main": pipeline}, from_percent=20, to_percent=60) is None
    said = took_effect({"main": pipeline}, from_percent=10, to_percent=100)
    assert said == "2 of 5 steps ran with guidance, and 4 were to"
