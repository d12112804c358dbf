"""Negative prompts that are kept: the same bits, until the text encoders are other ones."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from paretune.search_space import Target, describe_pipelines, technique
from paretune.search_space.caching.prompt_embedding_cache import prompt_embedding_cache, took_effect
from paretune.testing import picture, tiny_flux, tiny_sd3, tiny_sdxl, transformer_picture
from paretune.testing.tiny_sdxl import SIDE_PX


def calls_of(encoder: Any) -> list[int]:
    """The batch of each call, from now on."""
    seen: list[int] = []
    encoder.register_forward_hook(lambda module, args, output: seen.append(1))
    return seen


def test_a_negative_prompt_is_read_once_and_prompts_every_time() -> None:
    pipeline = tiny_sdxl()
    prompt_embedding_cache({"main": pipeline})
    assert took_effect({"main": pipeline}) is not None
    seen = calls_of(pipeline.text_encoder)
    pictures = [picture(pipeline, "a dog", negative_prompt="red", steps=2) for _ in range(3)]
    assert len(seen) == 2 + 1 + 1
    assert torch.equal(pictures[2], picture(tiny_sdxl(), "a dog", negative_prompt="red", steps=2))
    # Another batch, another text: read again.
    for arguments in ({"batch": 3}, {"negative_prompt": "the sea"}):
        arguments = {"negative_prompt": "red", "steps": 2, **arguments}
        assert torch.equal(picture(pipeline, **arguments), picture(tiny_sdxl(), **arguments))
    assert took_effect({"main": pipeline}) is None


def test_a_batch_with_a_negative_prompt_for_each_picture_is_served_as_well() -> None:
    """As a study's requests are made."""

    def pictures(pipeline: Any, *negative: str) -> Any:
        generators = [torch.Generator().manual_seed(seed) for seed in range(len(negative))]
        prompts, size = ["a dog"] * len(negative), {"height": SIDE_PX, "width": SIDE_PX}
        called = pipeline(
            prompts,
            negative_prompt=list(negative),
            generator=generators,
            num_inference_steps=2,
            output_type="pt",
            **size,
        )
        return called.images

    pipeline = tiny_sdxl()
    prompt_embedding_cache({"main": pipeline})
    for _ in range(2):
        again = pictures(pipeline, "red", "the sea")
    assert pipeline.prompt_embedding_counts == {"computed": 1, "reused": 1}
    assert torch.equal(again, pictures(tiny_sdxl(), "red", "the sea"))
    other = pictures(pipeline, "red", "red")
    assert pipeline.prompt_embedding_counts["computed"] == 2
    assert torch.equal(other, pictures(tiny_sdxl(), "red", "red"))


def another_weight(pipeline: Any) -> None:
    embeddings = pipeline.text_encoder.get_input_embeddings()
    embeddings.weight = torch.nn.Parameter(embeddings.weight.detach() * 1.5)


def another_checkpoint(pipeline: Any) -> None:
    encoder = pipeline.text_encoder
    encoder.load_state_dict({name: 1.5 * weight for name, weight in encoder.state_dict().items()}, strict=False)


def a_fused_lora(pipeline: Any) -> None:
    """As peft writes it, past the versions of tensors, and what diffusers leaves where it was unloaded."""
    pipeline.text_encoder.get_input_embeddings().weight.data *= 1.5
    pipeline.text_encoder._hf_peft_config_loaded = None


def another_padding(pipeline: Any) -> None:
    pipeline.tokenizer.pad_token = pipeline.tokenizer.unk_token = "a"


def another_forward(pipeline: Any) -> None:
    inner = pipeline.text_encoder.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        found = inner(*args, **kwargs)
        found.hidden_states = tuple(0.5 * each for each in found.hidden_states)
        return found

    pipeline.text_encoder.forward = forward


@pytest.mark.parametrize("change", [another_weight, another_checkpoint, a_fused_lora, another_padding, another_forward])
def test_other_text_encoders_are_asked_again(change: Callable[[Any], None]) -> None:
    pipeline, fresh = tiny_sdxl(), tiny_sdxl()
    prompt_embedding_cache({"main": pipeline})
    before = picture(pipeline, negative_prompt="red", steps=2)
    for each in (pipeline, fresh):
        change(each)
    after = picture(pipeline, negative_prompt="red", steps=2)
    assert not torch.equal(after, before)
    assert torch.equal(after, picture(fresh, negative_prompt="red", steps=2))


def test_who_writes_into_embeddings_writes_into_a_copy() -> None:
    pipeline = tiny_sdxl()
    prompt_embedding_cache({"main": pipeline})
    expected = pipeline.encode_prompt("a dog", device="cpu", negative_prompt="red")[1].clone()
    for _ in range(3):
        negative = pipeline.encode_prompt("a dog", device="cpu", negative_prompt="red")[1]
        assert torch.equal(negative, expected)
        negative.mul_(0.2)


def test_stable_diffusion_3_with_its_pooled_embeddings() -> None:
    pipeline = tiny_sd3()
    prompt_embedding_cache({"main": pipeline})
    first, second = (transformer_picture(pipeline, negative_prompt="red", steps=2) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(first, transformer_picture(tiny_sd3(), negative_prompt="red", steps=2))
    assert pipeline.prompt_embedding_counts == {"computed": 1, "reused": 1}


def test_flux_has_no_negative_prompt() -> None:
    known = technique("prompt_embedding_cache")
    facts = describe_pipelines({"main": tiny_flux()}, [])
    said = known.why_not(Target(device="cpu", name="cpu"), facts, known.parameters())
    assert said is not None
    assert "without a negative prompt" in said
