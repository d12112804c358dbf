"""Guidance cut-off against pictures made with and without guidance."""

from typing import Any

import pytest
import torch
from paretune.search_space.caching.guidance_cutoff import guidance_cutoff, took_effect
from paretune.testing import ip_adapter, picture, relative_difference, tiny_sdxl


def _unet_batches(pipeline: Any) -> list[int]:
    """The batch of each call of the U-Net's first layer, from now on."""
    seen: list[int] = []
    pipeline.unet.conv_in.register_forward_hook(lambda module, arguments, output: seen.append(output.shape[0]))
    return seen


@pytest.mark.parametrize("batch", [1, 3])
def test_later_steps_compute_half_the_batch(batch: int) -> None:
    pipeline = tiny_sdxl()
    guidance_cutoff({"main": pipeline}, guided_percent=50)
    seen = _unet_batches(pipeline)
    picture(pipeline, batch=batch, steps=4)
    # Euler's four timesteps are 999, 666, 333 and 0.
    assert seen == [2 * batch, 2 * batch, batch, batch]


def test_without_guidance_at_all_it_is_the_unguided_picture() -> None:
    """guidance_scale decides whether a pipeline guides; the cut-off at the very top then undoes it in every step."""
    unguided = picture(tiny_sdxl(), guidance=1.0)
    pipeline = tiny_sdxl()
    guidance_cutoff({"main": pipeline}, guided_percent=-100)
    assert relative_difference(picture(pipeline, guidance=5.0), unguided) < 1e-4


def test_ip_adapters_follow_the_prompted_half() -> None:
    torch.manual_seed(0)
    negative, positive = torch.randn(1, 1, 8), torch.randn(1, 1, 8)
    pipeline = tiny_sdxl()
    adapter = ip_adapter(pipeline.unet)
    pipeline.load_ip_adapter(adapter, subfolder="", weight_name="", image_encoder_folder=None)
    unguided = picture(pipeline, guidance=1.0, ip_adapter_image_embeds=[positive])
    guidance_cutoff({"main": pipeline}, guided_percent=-100)
    cut_off = picture(pipeline, guidance=5.0, ip_adapter_image_embeds=[torch.cat([negative, positive])])
    assert relative_difference(cut_off, unguided) < 1e-4


def test_unguided_requests_are_left_alone() -> None:
    expected = picture(tiny_sdxl(), guidance=1.0)
    pipeline = tiny_sdxl()
    guidance_cutoff({"main": pipeline}, guided_percent=40)
    seen = _unet_batches(pipeline)
    assert torch.equal(picture(pipeline, guidance=1.0), expected)
    assert set(seen) == {2}
    assert took_effect({"main": pipeline}, guided_percent=40) is not None


def test_everything_that_carries_the_batch_is_halved() -> None:
    pipeline = tiny_sdxl()
    unet = pipeline.unet
    received: dict[str, Any] = {}

    def record(sample: Any, timestep: Any, encoder_hidden_states: Any, **kwargs: Any) -> tuple[torch.Tensor]:
        received.update(kwargs, sample=sample, timestep=timestep, encoder_hidden_states=encoder_hidden_states)
        return (sample,)

    unet.forward = record
    guidance_cutoff({"main": pipeline}, guided_percent=50)
    latents = torch.randn(2, 4, 16, 16)
    prompt, embeds, mask = torch.randn(4, 77, 64), torch.randn(4, 1, 8), torch.ones(1, 1, 8, 8)
    (noise,) = unet(
        torch.cat([latents, latents]),
        torch.tensor(10),
        prompt,
        added_cond_kwargs={"image_embeds": [embeds], "time_ids": prompt[:, 0, :6]},
        cross_attention_kwargs={"ip_adapter_masks": [mask], "scale": 0.5},
        return_dict=False,
    )
    assert torch.equal(noise, torch.cat([latents, latents]))
    assert torch.equal(received["encoder_hidden_states"], prompt[2:])
    assert torch.equal(received["added_cond_kwargs"]["image_embeds"][0], embeds[2:])
    assert torch.equal(received["added_cond_kwargs"]["time_ids"], prompt[2:, 0, :6])
    assert received["cross_attention_kwargs"] == {"ip_adapter_masks": [mask], "scale": 0.5}
    assert received["timestep"].ndim == 0
