"""ImageReward: how much people would prefer this picture for its prompt. BLIP, trained on their comparisons.

Built here from transformers' BLIP, because the authors' package image-reward 1.5 cannot run with transformers 5.
"""

import functools
import importlib
import math
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..images import from_uint8
from .learned_metric import LearnedMetric, Scorer, quality_scorer
from .pixels import to_pil
from .requirements import needs_package, needs_weights, read_weights, require_files

PROMPT_TOKENS = 35

# Of the network's outputs on the authors' test set: the rewards there have mean 0 and spread 1.
_REWARD_MEAN, _REWARD_DEVIATION = 0.16717362830052426, 1.0333394966054072

# CLIP's mean and spread of colours.
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_DEVIATION = (0.26862954, 0.26130258, 0.27577711)

# Settings of the picture's and the text's transformer that no tensor's shape shows.
_HEAD_WIDTH = 64
_VISION_EPSILON = 1e-6

_VISION, _TEXT, _HEAD = "blip.visual_encoder.", "blip.text_encoder.", "mlp.layers."
_HEAD_LAYERS = (0, 2, 4, 6, 7)  # linear, without activations; dropouts are between them

# transformers' names of the picture's transformer -> BLIP's. Those of the text's are the same.
_VISION_NAMES = {
    "embeddings.class_embedding": "cls_token",
    "embeddings.position_embedding": "pos_embed",
    "embeddings.patch_embedding": "patch_embed.proj",
    "encoder.layers": "blocks",
    "self_attn.projection": "attn.proj",
    "self_attn.qkv": "attn.qkv",
    "post_layernorm": "norm",
    "layer_norm": "norm",
}

_FILE, _VOCABULARY = "ImageReward", "vocab.txt"
_WEIGHTS = (
    f"a folder with {_FILE}.pt of THUDM/ImageReward (or its tensors as {_FILE}.safetensors) "
    f"and {_VOCABULARY} of bert-base-uncased"
)


@functools.cache
def _load(path: Path, device: str) -> Scorer:
    with needs_package("image_reward", "transformers"):
        transformers = importlib.import_module("transformers")
        vision_config, vision_class = transformers.BlipVisionConfig, transformers.BlipVisionModel
        text_config, text_class = transformers.BlipTextConfig, transformers.BlipTextModel
        tokenizer_class = transformers.BertTokenizer
    with needs_weights("image_reward", path, _WEIGHTS):
        file = f"{_FILE}.safetensors" if (path / f"{_FILE}.safetensors").exists() else f"{_FILE}.pt"
        require_files(path, file, _VOCABULARY)
        weights = read_weights(path / file)
        vision = vision_class(vision_config(**_vision_shape(weights)))
        text = text_class(text_config(**_text_shape(weights)), add_pooling_layer=False)
        _fill(vision, weights, _VISION, _VISION_NAMES)
        _fill(text, weights, _TEXT, {})
        head = [[weights[f"{_HEAD}{n}.{part}"].float() for part in ("weight", "bias")] for n in _HEAD_LAYERS]
        tokenizer = tokenizer_class(vocab=str(path / _VOCABULARY))
        tokenizer.add_tokens(["[DEC]", "[ENC]"], special_tokens=True)  # BLIP's, which are rows of the weights
        if len(tokenizer) != text.config.vocab_size:
            raise ValueError(
                f"{_VOCABULARY} has {len(tokenizer) - 2} words, the weights know {text.config.vocab_size - 2}"
            )
    vision, text = (model.eval().requires_grad_(False).to(device) for model in (vision, text))
    head = [[tensor.to(device) for tensor in layer] for layer in head]

    def compute(candidate_1CHW: Tensor, prompt: str) -> Tensor:
        pixels = _prepared(candidate_1CHW, vision.config.image_size).to(device)
        tokens = tokenizer(
            prompt, padding="max_length", truncation=True, max_length=PROMPT_TOKENS, return_tensors="pt"
        ).to(device)
        states = text(
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
            encoder_hidden_states=vision(pixel_values=pixels).last_hidden_state,
        ).last_hidden_state
        x: Tensor = states[:, 0]
        for weight, bias in head:
            x = torch.nn.functional.linear(x, weight, bias)
        return (x - _REWARD_MEAN) / _REWARD_DEVIATION

    return quality_scorer(compute)


def _vision_shape(weights: dict[str, Tensor]) -> dict[str, Any]:
    width, _, patch_px, _ = weights[f"{_VISION}patch_embed.proj.weight"].shape
    patches = weights[f"{_VISION}pos_embed"].shape[1] - 1  # and one for the whole picture
    return {
        "hidden_size": width,
        "intermediate_size": len(weights[f"{_VISION}blocks.0.mlp.fc1.weight"]),
        "num_hidden_layers": _count(weights, f"{_VISION}blocks."),
        "num_attention_heads": width // _HEAD_WIDTH,
        "patch_size": patch_px,
        "image_size": math.isqrt(patches) * patch_px,
        "layer_norm_eps": _VISION_EPSILON,
    }


def _text_shape(weights: dict[str, Tensor]) -> dict[str, Any]:
    words, width = weights[f"{_TEXT}embeddings.word_embeddings.weight"].shape
    return {
        "vocab_size": words,
        "hidden_size": width,
        "encoder_hidden_size": weights[f"{_TEXT}encoder.layer.0.crossattention.self.key.weight"].shape[1],
        "intermediate_size": len(weights[f"{_TEXT}encoder.layer.0.intermediate.dense.weight"]),
        "num_hidden_layers": _count(weights, f"{_TEXT}encoder.layer."),
        "num_attention_heads": width // _HEAD_WIDTH,
        "max_position_embeddings": len(weights[f"{_TEXT}embeddings.position_embeddings.weight"]),
        "is_decoder": True,  # transformers' word for having cross-attention; no causal mask comes of it
    }


def _count(weights: dict[str, Tensor], prefix: str) -> int:
    """How many layers have names that begin so."""
    return len({name.removeprefix(prefix).split(".")[0] for name in weights if name.startswith(prefix)})


def _fill(model: Any, weights: dict[str, Tensor], prefix: str, names: dict[str, str]) -> None:
    """Take the model's tensors from the published ones; KeyError with the published name of one that is not there."""
    state = {}
    for name in model.state_dict():
        published = name
        for ours, theirs in names.items():
            published = published.replace(ours, theirs)
        state[name] = weights[prefix + published]
    model.load_state_dict(state)


def _prepared(image_1CHW: Tensor, side_px: int) -> Tensor:
    """(1, 3, side, side): resized on 8-bit pixels and cropped to the middle, in the units of the model's training."""
    image = to_pil(image_1CHW)
    # The fraction of a pixel is cut off and half a pixel rounded to even, as torchvision does for the authors.
    width, height = (int(side_px * side / min(image.size)) for side in image.size)
    left, top = round((width - side_px) / 2), round((height - side_px) / 2)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    image = image.crop((left, top, left + side_px, top + side_px))
    levels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(1, side_px, side_px, 3)
    pixels = from_uint8(levels.permute(0, 3, 1, 2))
    return (pixels - torch.tensor(_MEAN).view(1, 3, 1, 1)) / torch.tensor(_DEVIATION).view(1, 3, 1, 1)


metric = LearnedMetric(
    name="image_reward",
    unit="1",
    higher_is_better=True,
    kind="quality",
    needs_prompt=True,
    packages=("transformers",),
    weights=_WEIGHTS,
    summary="human preference as a reward, mean 0 and spread 1 on the authors' test set; ImageReward v1.0",
    source="Xu et al. 2023, arXiv:2304.05977, https://github.com/THUDM/ImageReward",
    load=_load,
)
