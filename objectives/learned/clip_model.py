"""A CLIP model of the user's, for the metrics that compare its embeddings. One copy per folder and process."""

import functools
import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .pixels import to_pil
from .requirements import needs_package, needs_weights, require_files

WEIGHTS = "a folder that transformers' CLIPModel and CLIPProcessor were saved in"
"""What a folder must hold, for `LearnedMetric.weights`."""


class ClipModel:
    """Embeds one picture or one prompt: (1, D) float32, not normalised."""

    def __init__(self, model: Any, pictures: Any, tokenizer: Any, device: str) -> None:
        self._model, self._pictures, self._tokenizer, self._device = model, pictures, tokenizer, device

    def embed_picture(self, image_1CHW: Tensor) -> Tensor:
        """The picture as people get it, in 8 bits, resized and cropped as the folder's preprocessor says."""
        pixels = self._pictures(images=to_pil(image_1CHW), return_tensors="pt")["pixel_values"]
        features = self._model.vision_model(pixel_values=pixels.to(self._device)).pooler_output
        embedding: Tensor = self._model.visual_projection(features)
        return embedding

    def embed_prompt(self, prompt: str) -> Tensor:
        """What is beyond the text encoder's length is cut off, as CLIP does."""
        length = self._model.config.text_config.max_position_embeddings
        tokens = self._tokenizer(prompt, truncation=True, max_length=length, return_tensors="pt").to(self._device)
        features = self._model.text_model(input_ids=tokens["input_ids"]).pooler_output
        embedding: Tensor = self._model.text_projection(features)
        return embedding

    @property
    def logit_scale(self) -> float:
        """What the model multiplies cosines with."""
        return float(self._model.logit_scale.exp())


@functools.cache
def load_clip(path: Path, device: str) -> ClipModel:
    """Raises ValueError, one sentence, when the folder does not hold such a model or transformers cannot load one."""
    with needs_package("CLIP", "transformers"):
        transformers = importlib.import_module("transformers")
        # transformers' default processor depends on whether torchvision is there, and its pixels differ a little.
        model_class, pictures_class = transformers.CLIPModel, transformers.CLIPImageProcessorPil
        tokenizer_class = transformers.CLIPTokenizer
    with needs_weights("CLIP", path, WEIGHTS):
        require_files(path, "config.json", "preprocessor_config.json")
        if not (path / "tokenizer.json").exists():  # without either, transformers makes a tokenizer that knows no words
            require_files(path, "vocab.json", "merges.txt")
        pictures = pictures_class.from_pretrained(path, local_files_only=True)
        tokenizer = tokenizer_class.from_pretrained(path, local_files_only=True)
        model, report = model_class.from_pretrained(
            path, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
        if report["missing_keys"]:  # transformers fills them with random numbers
            raise ValueError(f"{len(report['missing_keys'])} of its weights are missing")
    return ClipModel(model.eval().requires_grad_(False).to(device), pictures, tokenizer, device)
