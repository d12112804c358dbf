"""Negative prompts that are kept: the same bits, until the text encoders are other ones."""

from typing import Any

import torch
from paretune.search_space import Target, describe_pipelines, technique
from paretune.search_space.caching.prompt_embedding_cache import prompt_embedding_cache, took_effect
from paretune.testing import picture, tiny_flux, tiny_sd3, tiny_sdxl, transformer_picture


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


def test_other_text_encoders_are_asked_again() -> None:
    pipeline, fresh = tiny_sdxl(), tiny_sdxl()
    prompt_embedding_cache({"main": pipeline})
    before = picture(pipeline, negative_prompt="red", steps=2)
    for each in (pipeline, fresh):
        other = torch.nn.Parameter(each.text_encoder.get_input_embeddings().weight.detach() * 1.5)
        each.text_encoder.get_input_embeddings().weight = other
    after = picture(pipeline, negative_prompt="red", steps=2)
    assert not torch.equal(after, before)
    assert torch.equal(after, picture(fresh, negative_prompt="red", steps=2))


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
