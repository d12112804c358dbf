"""Guidance cut-off against pictures whose guidance a callback stops, and by the batches that the U-Net sees."""

from typing import Any

import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInstructPix2PixPipeline,
)
from paretune.search_space.caching.guidance_cutoff import guidance_cutoff, guided_steps, took_effect
from paretune.testing import ip_adapter, picture, relative_difference, sibling, tiny_sdxl

EDM = {"sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5}


def _unet_batches(pipeline: Any) -> list[int]:
    """The batch of each call of the U-Net's first layer, from now on."""
    seen: list[int] = []
    pipeline.unet.conv_in.register_forward_hook(lambda module, arguments, output: seen.append(output.shape[0]))
    return seen


def _stopped_by_a_callback(pipeline: Any, guided: int, **kwargs: Any) -> torch.Tensor:
    """As users of diffusers stop guidance after `guided` steps."""
    carried = ["prompt_embeds", "add_text_embeds", "add_time_ids"]

    def stop(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step + 1 == guided:
            pipeline._guidance_scale = 1.0
            return {name: tensor.chunk(2)[1] for name, tensor in tensors.items()}
        return {}

    def trim(module: Any, arguments: Any, options: dict[str, Any]) -> Any:
        conditions = options["added_cond_kwargs"]
        if "image_embeds" in conditions:
            conditions["image_embeds"] = [each[-arguments[0].shape[0] :] for each in conditions["image_embeds"]]
        return arguments, options

    hook = pipeline.unet.register_forward_pre_hook(trim, with_kwargs=True)
    made = picture(pipeline, callback_on_step_end=stop, callback_on_step_end_tensor_inputs=carried, **kwargs)
    hook.remove()
    return made


@pytest.mark.parametrize("batch", [1, 3])
def test_later_steps_compute_half_the_batch(batch: int) -> None:
    pipeline = tiny_sdxl()
    guidance_cutoff({"main": pipeline}, guided_percent=50)
    seen = _unet_batches(pipeline)
    picture(pipeline, batch=batch, steps=4)
    assert seen == [2 * batch, 2 * batch, batch, batch]
    assert relative_difference(picture(pipeline, batch=batch), _stopped_by_a_callback(tiny_sdxl(), 2, batch=batch)) < (
        1e-4
    )


@pytest.mark.parametrize(
    ("scheduler", "calls", "guided"),
    [
        (EDMDPMSolverMultistepScheduler(**EDM), 20, 18),
        (EDMEulerScheduler(**EDM), 20, 18),
        (DPMSolverMultistepScheduler(timestep_spacing="trailing"), 20, 18),
        (PNDMScheduler(skip_prk_steps=True), 21, 18),
        (HeunDiscreteScheduler(), 39, 35),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "config") else str(value),
)
def test_the_share_of_guided_steps_is_the_one_asked_for_with_any_scheduler(
    scheduler: Any, calls: int, guided: int
) -> None:
    pipeline = tiny_sdxl()
    pipeline.scheduler = scheduler
    guidance_cutoff({"main": pipeline}, guided_percent=90)
    seen = _unet_batches(pipeline)
    first = picture(pipeline, batch=1, steps=20)
    assert seen == [2] * guided + [1] * (calls - guided)
    assert torch.equal(picture(pipeline, batch=1, steps=20), first)
    assert took_effect({"main": pipeline}, guided_percent=90) is None
    assert took_effect({"main": pipeline}, guided_percent=40) == (
        f"{guided} of {calls} steps ran with guidance, and 40 % of them are {guided_steps(calls, 40)}"
    )


def test_image_to_image_guides_the_share_of_the_steps_it_takes() -> None:
    base = tiny_sdxl()
    pipeline = StableDiffusionXLImg2ImgPipeline(**base.components)
    guidance_cutoff({"main": pipeline}, guided_percent=80)
    seen = _unet_batches(pipeline)
    pipeline("a cat", image=torch.full((1, 3, 64, 64), 0.5), strength=0.5, num_inference_steps=20, output_type="pt")
    assert seen == [2] * 8 + [1] * 2


def test_where_another_pipeline_takes_over_the_share_is_of_the_steps_before() -> None:
    pipeline = tiny_sdxl()
    guidance_cutoff({"main": pipeline}, guided_percent=50)
    seen = _unet_batches(pipeline)
    pipeline("a cat", num_inference_steps=10, denoising_end=0.8, output_type="latent")
    assert seen == [2] * (len(seen) // 2) + [1] * (len(seen) - len(seen) // 2)
    assert len(seen) < 10


def test_a_picture_that_was_cancelled_does_not_shift_the_next() -> None:
    def cancel(pipeline: Any, step: int, timestep: Any, tensors: Any) -> Any:
        if step == 1:
            raise KeyboardInterrupt
        return tensors

    pipeline = tiny_sdxl()
    guidance_cutoff({"main": pipeline}, guided_percent=50)
    with pytest.raises(KeyboardInterrupt):
        picture(pipeline, batch=1, steps=8, callback_on_step_end=cancel)
    seen = _unet_batches(pipeline)
    picture(pipeline, batch=1, steps=8)
    assert seen == [2] * 4 + [1] * 4


def test_a_picture_within_a_picture_does_not_shift_it() -> None:
    """A callback may make a preview with another pipeline of the same U-Net."""
    pipeline = tiny_sdxl()
    preview = sibling(pipeline, EDMEulerScheduler(**EDM))
    guidance_cutoff({"main": pipeline}, guided_percent=50)
    expected = picture(pipeline, steps=8)

    def look(pipeline: Any, step: int, timestep: Any, tensors: Any) -> Any:
        if step in (1, 5):
            picture(preview, "a dog", steps=2)
        return tensors

    assert torch.equal(picture(pipeline, steps=8, callback_on_step_end=look), expected)


def test_the_rounding_is_downwards_and_one_step_is_always_guided() -> None:
    assert [guided_steps(count, 90) for count in (1, 2, 4, 10, 20)] == [1, 1, 3, 9, 18]
    assert [guided_steps(count, 40) for count in (1, 2, 4, 10, 20)] == [1, 1, 1, 4, 8]


def test_ip_adapters_follow_the_prompted_half() -> None:
    torch.manual_seed(0)
    embeds = [torch.randn(2, 1, 8)]
    pipeline, untouched = tiny_sdxl(), tiny_sdxl()
    adapter = ip_adapter(pipeline.unet)
    for each in (pipeline, untouched):
        each.load_ip_adapter(adapter, subfolder="", weight_name="", image_encoder_folder=None)
    expected = _stopped_by_a_callback(untouched, 2, ip_adapter_image_embeds=embeds)
    guidance_cutoff({"main": pipeline}, guided_percent=50)
    assert relative_difference(picture(pipeline, ip_adapter_image_embeds=embeds), expected) < 1e-4


@pytest.mark.parametrize("same_seed", [False, True])
def test_unguided_requests_are_left_alone(same_seed: bool) -> None:
    """Two unguided pictures from one seed have equal halves, as guided ones have."""
    request: dict[str, Any] = {"guidance_scale": 1.0, "num_images_per_prompt": 2, "num_inference_steps": 4}

    def pictures(pipeline: Any) -> torch.Tensor:
        seeds = [torch.Generator().manual_seed(0 if same_seed else seed) for seed in range(2)]
        made: torch.Tensor = pipeline("a cat", **request, generator=seeds, output_type="pt").images
        return made

    pipeline = tiny_sdxl()
    guidance_cutoff({"main": pipeline}, guided_percent=40)
    seen = _unet_batches(pipeline)
    assert torch.equal(pictures(pipeline), pictures(tiny_sdxl()))
    assert set(seen) == {2}
    assert took_effect({"main": pipeline}, guided_percent=40) is not None


def test_a_pipeline_that_guides_between_three_predictions_is_refused_in_a_sentence() -> None:
    base = tiny_sdxl()
    parts = {name: part for name, part in base.components.items() if name not in ("image_encoder", "feature_extractor")}
    base.unet.conv_in = torch.nn.Conv2d(8, 32, 3, padding=1)
    base.unet.register_to_config(in_channels=8)
    pipeline = StableDiffusionXLInstructPix2PixPipeline(**parts, add_watermarker=False)
    guidance_cutoff({"main": pipeline}, guided_percent=50)
    with pytest.raises(RuntimeError, match="StableDiffusionXLInstructPix2PixPipeline guides in another way"):
        pipeline("a cat", image=torch.full((1, 3, 64, 64), 0.5), num_inference_steps=4, height=64, width=64)


def test_a_scheduler_that_says_nothing_is_refused_in_a_sentence() -> None:
    class Odd(DPMSolverMultistepScheduler):
        def set_timesteps(self, *arguments: Any, **options: Any) -> None:
            super().set_timesteps(*arguments, **options)
            self.timesteps = [int(timestep) for timestep in self.timesteps]

    pipeline = tiny_sdxl()
    pipeline.scheduler = Odd.from_config(pipeline.scheduler.config)
    guidance_cutoff({"main": pipeline}, guided_percent=50)
    with pytest.raises(RuntimeError, match=r"where a step stands in the schedule is unknown.* scheduler, Odd"):
        picture(pipeline)


class Pipeline:
    """Calls a U-Net with whatever it is asked to, as the last of two steps."""

    do_classifier_free_guidance = True
    num_timesteps = 2

    def __init__(self, unet: Any) -> None:
        self.unet = unet
        self.scheduler = type("Scheduler", (), {"timesteps": torch.tensor([500, 10])})

    def __call__(self, latents: torch.Tensor, timesteps: list[Any], **kwargs: Any) -> Any:
        for timestep in timesteps:
            noise = self.unet(torch.cat([latents, latents]), timestep, **kwargs)[0]
        return noise


@pytest.mark.parametrize("as_view", [True, False])
def test_everything_that_carries_the_batch_is_halved(as_view: bool) -> None:
    unet = tiny_sdxl().unet
    received: dict[str, Any] = {}

    def record(sample: Any, timestep: Any, encoder_hidden_states: Any, **kwargs: Any) -> tuple[torch.Tensor]:
        received.update(kwargs, sample=sample, timestep=timestep, encoder_hidden_states=encoder_hidden_states)
        return (sample,)

    unet.forward = record
    pipeline = Pipeline(unet)
    guidance_cutoff({"main": pipeline}, guided_percent=50)
    latents = torch.randn(2, 4, 16, 16)
    prompt, embeds, mask = torch.randn(4, 77, 64), torch.randn(4, 1, 8), torch.ones(1, 1, 8, 8)
    noise = pipeline(
        latents,
        list(pipeline.scheduler.timesteps) if as_view else [torch.tensor([500.0]), torch.tensor([10.0] * 4)],
        encoder_hidden_states=prompt,
        added_cond_kwargs={"image_embeds": [embeds], "time_ids": prompt[:, 0, :6]},
        cross_attention_kwargs={"ip_adapter_masks": [mask], "scale": 0.5},
    )
    assert torch.equal(noise, torch.cat([latents, latents]))
    assert torch.equal(received["encoder_hidden_states"], prompt[2:])
    assert torch.equal(received["added_cond_kwargs"]["image_embeds"][0], embeds[2:])
    assert torch.equal(received["added_cond_kwargs"]["time_ids"], prompt[2:, 0, :6])
    assert received["cross_attention_kwargs"] == {"ip_adapter_masks": [mask], "scale": 0.5}
    assert received["timestep"].numel() == (1 if as_view else 2)

    # Outside of a pipeline nobody says whether it is guidance.
    unet(torch.cat([latents, latents]), torch.tensor(10), prompt)
    assert torch.equal(received["encoder_hidden_states"], prompt)
