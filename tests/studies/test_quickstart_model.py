"""The model that ships with the package: it loads, it is small, it follows prompts, and its training still runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from quickstart_model import captions, check_prompts, drawing, faces, train


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Layers this small gain little from threads, and on a busy machine threads that wait for each other are slow."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionXLPipeline:
    loaded = StableDiffusionXLPipeline.from_pretrained(check_prompts.MODEL)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_faces_are_the_same_for_the_same_seed() -> None:
    for seed in range(20):
        assert faces.random_face(seed) == faces.random_face(seed)
    face = faces.random_face(7)
    assert np.array_equal(np.asarray(drawing.draw(face)), np.asarray(drawing.draw(face)))
    assert drawing.draw(face).size == (128, 128)
    other = faces.random_face(8)
    assert not np.array_equal(np.asarray(drawing.draw(face)), np.asarray(drawing.draw(other)))


def test_captions_name_what_was_asked_for() -> None:
    drawn, prompts = check_prompts.prompts_for(50)
    for face, prompt in zip(drawn, prompts, strict=True):
        assert face.hair_colour in prompt
        assert face.background in prompt
        assert (face.glasses or "no glasses") in prompt or "glasses" not in prompt
    assert captions.EXPRESSIONS.keys() == set(faces.EXPRESSIONS)


def test_detectors_are_right_on_drawn_faces() -> None:
    drawn = [faces.random_face(20_000_000 + i) for i in range(150)]
    shares = check_prompts.share_right([drawing.draw(face) for face in drawn], drawn)
    assert min(shares.values()) >= check_prompts.DETECTORS_AT_LEAST


def test_weights_are_small() -> None:
    weights = list(check_prompts.MODEL.rglob("*.safetensors"))
    assert len(weights) == 4
    assert sum(file.stat().st_size for file in weights) <= 32_000_000


def test_parts_load_in_one_dtype(pipeline: StableDiffusionXLPipeline) -> None:
    parts = (pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2)
    assert {part.dtype for part in parts} == {torch.float32}
    half = StableDiffusionXLPipeline.from_pretrained(check_prompts.MODEL, dtype=torch.float16)
    assert {half.unet.dtype, half.vae.dtype, half.text_encoder.dtype, half.text_encoder_2.dtype} == {torch.float16}


def test_pooled_embedding_comes_from_the_end_token(pipeline: StableDiffusionXLPipeline) -> None:
    tokenizer = pipeline.tokenizer
    ids = tokenizer("a woman with red hair", padding="max_length", return_tensors="pt").input_ids
    assert ids.shape == (1, 77)
    assert tokenizer.eos_token_id == pipeline.text_encoder_2.config.eos_token_id != 2
    end = int((ids[0] == tokenizer.eos_token_id).int().argmax())
    with torch.no_grad():
        out = pipeline.text_encoder_2(ids)
        expected = pipeline.text_encoder_2.text_projection(out.last_hidden_state[:, end])
    torch.testing.assert_close(out.text_embeds, expected)


def test_pictures_follow_the_prompt(pipeline: StableDiffusionXLPipeline) -> None:
    # Eight prompts are too few for the shares in the model card: most have to be right.
    asked, prompts = check_prompts.prompts_for(8)
    images = check_prompts.drawn_by(pipeline, prompts, steps=10, guidance=5.0, batch=8)
    assert all(image.size == (128, 128) for image in images)
    shares = check_prompts.share_right(images, asked)
    assert shares["background"] >= 7 / 8
    assert shares["hair colour"] >= 6 / 8
    assert shares["glasses"] >= 6 / 8


def test_training_runs_and_its_pipeline_draws(tmp_path: Path) -> None:
    train.train(tmp_path, torch.device("cpu"), train.SMOKE)
    trained = StableDiffusionXLPipeline.from_pretrained(tmp_path)
    trained.set_progress_bar_config(disable=True)
    image = trained("a face", num_inference_steps=1, generator=torch.Generator().manual_seed(0)).images[0]
    assert image.size == (128, 128)
    assert (tmp_path / "tokenizer" / "merges.txt").exists()
