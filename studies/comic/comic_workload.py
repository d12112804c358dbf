"""A comic workflow: two pipelines with one U-Net, characters as IP-Adapters, customers as LoRAs, matting, an upscaler.

A study names this file (studies/comic.yaml). Every model may be another one, by `workload.options`, and nothing else
changes; see `load`.
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline
from networks import LargeMatting, LargeUpscaler, Matting, Upscaler
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
QUICKSTART, SDXL = HERE.parent / "quickstart" / "model", HERE.parent / "sdxl"
CHARACTERS = {"ann": 0, "ben": 1}
"""IP-Adapters, and which place of the image embedding is theirs."""
LORAS = ("rose", "night")
EMBEDDING = 8
PAPER = (0.98, 0.96, 0.90)


def load(
    device: str,
    model: str | None = None,
    dtype: str = "float32",
    parts: str | None = None,
    matting: str | None = None,
    upscaler: str | None = None,
) -> dict[str, Any]:
    """What serves a request.

    model: a folder or an id of the hub with an SDXL pipeline; "random" is the full size with random weights; by default
    the quickstart's. parts: a folder with ann, ben, rose and night (.safetensors) that fit it; by default the
    quickstart's. matting: an id or a folder for transformers, such as ZhengPeng7/BiRefNet; upscaler: a file for
    spandrel. By default both are small networks of this folder. "random", for each of them, is one of the usual size
    with random weights.
    """
    number_format = getattr(torch, dtype)
    if model == "random":
        main = _random_pipeline(SDXL, number_format, device)
    else:
        main = StableDiffusionXLPipeline.from_pretrained(str(model or QUICKSTART), dtype=number_format).to(device)
    refiner = StableDiffusionXLImg2ImgPipeline(**main.components)  # the same modules
    for pipeline in (main, refiner):
        pipeline.set_progress_bar_config(disable=True)
    return {
        "adapters": Adapters(main, parts),
        "main": main,
        "refiner": refiner,
        "matting": _matting(matting).to(device, number_format).eval(),
        "upscaler": _upscaler(upscaler).to(device, number_format).eval(),
    }


@torch.no_grad()
def run(pipelines: Mapping[str, Any], request: Any) -> torch.Tensor:
    """One request as production serves it: pictures (B, 3, 2 H, 2 W) in [0, 1]."""
    pipelines["adapters"](request.adapters)
    pictures = _drawn(pipelines["main"], request, {"width": request.width_px, "height": request.height_px})
    if "strength" in request.arguments:
        pictures = _drawn(
            pipelines["refiner"], request, {"image": pictures, "strength": request.arguments["strength"]}, seed=1000
        )
    pictures = pictures.to(pipelines["main"].unet.dtype)
    shown = pipelines["matting"](pictures)
    shown = shown[-1].sigmoid() if isinstance(shown, (list, tuple)) else shown  # BiRefNet's are logits, coarse to fine
    paper = torch.tensor(PAPER, device=pictures.device, dtype=pictures.dtype).view(1, 3, 1, 1)
    on_paper = pictures * shown + paper * (1 - shown)
    larger: torch.Tensor = pipelines["upscaler"](on_paper)
    return larger.float().clamp(0, 1)


def _drawn(pipeline: Any, request: Any, call: dict[str, Any], seed: int = 0) -> torch.Tensor:
    """Pictures of a pipeline, with the image embedding of the request's character."""
    for name in request.adapters:
        if name in CHARACTERS:
            embedding = torch.zeros(1, 1, EMBEDDING)
            embedding[..., CHARACTERS[name]] = 1
            positive = embedding.repeat(request.batch, 1, 1)
            both = torch.cat([torch.zeros_like(positive), positive]) if request.guidance > 1 else positive
            call["ip_adapter_image_embeds"] = [both.to(pipeline.unet.device, pipeline.unet.dtype)]
    seeds = [request.seed + seed + index for index in range(request.batch)]
    pictures: torch.Tensor = pipeline(
        prompt=[request.prompt] * request.batch,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance,
        generator=[torch.Generator("cpu").manual_seed(each) for each in seeds],
        output_type="pt",
        **call,
    ).images
    return pictures


class Adapters:
    """Loads what a request needs, and unloads what the one before has left. They change the U-Net of both pipelines."""

    def __init__(self, main: Any, parts: str | None) -> None:
        """parts: see `load`."""
        self._main = main
        if parts == "random":
            # Files, as in production: what an adapter costs begins with reading it.
            self._temporary = tempfile.TemporaryDirectory(prefix="comic-parts-")
            _write_random_parts(main.unet, Path(self._temporary.name))
            parts = self._temporary.name
        self._folder = HERE if parts is None else Path(parts)
        self._character = ""
        self._lora = ""
        self._before: dict[str, torch.Tensor] = {}

    def __call__(self, names: tuple[str, ...]) -> None:
        """Have these adapters loaded, and no others."""
        character = next((name for name in names if name in CHARACTERS), "")
        if character != self._character:
            if self._character:
                self._main.unload_ip_adapter()
            if character:
                self._main.load_ip_adapter(
                    str(self._folder),
                    subfolder="",
                    weight_name=f"{character}.safetensors",
                    image_encoder_folder=None,
                )
                self._main.set_ip_adapter_scale(0.7)
            self._character = character
        lora = next((name for name in names if name in LORAS), "")
        if lora != self._lora:
            self._merge(lora)
            self._lora = lora

    def _merge(self, lora: str) -> None:
        """Write W + B A into the weights W, or W itself again: to add and subtract would leave rounding behind."""
        unet = self._main.unet
        for name, weight in self._before.items():
            unet.get_submodule(name).weight.data.copy_(weight)
        if not lora:
            return
        for name, (a, b) in _read_lora(self._folder, lora).items():
            weight = unet.get_submodule(name).weight.data
            self._before.setdefault(name, weight.clone())
            change = b.to(weight.device, torch.float32) @ a.to(weight.device, torch.float32)
            weight.copy_(self._before[name].float() + change)


def _read_lora(folder: Path, lora: str) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """{layer of the U-Net: (A, B)}, of a file in the names of PEFT."""
    found = load_file(str(folder / f"{lora}.safetensors"))
    layers = [
        key.removeprefix("unet.").removesuffix(".lora_A.weight") for key in found if key.endswith("lora_A.weight")
    ]
    return {name: (found[f"unet.{name}.lora_A.weight"], found[f"unet.{name}.lora_B.weight"]) for name in layers}


def _matting(place: str | None) -> Any:
    if place is None:
        return _trained(Matting(), "matting")
    if place == "random":
        return _random(LargeMatting)
    from transformers import AutoModelForImageSegmentation

    return AutoModelForImageSegmentation.from_pretrained(place, trust_remote_code=True)


def _upscaler(file: str | None) -> Any:
    if file is None:
        return _trained(Upscaler(), "upscaler")
    if file == "random":
        return _random(LargeUpscaler)
    from spandrel import ModelLoader

    return ModelLoader().load_from_file(file).model


def _trained(network: Any, name: str) -> Any:
    network.load_state_dict(load_file(str(HERE / f"{name}.safetensors")))
    return network


# The full size with random weights, for a machine without the real ones: times and memory are real, pictures are not.


def _random_pipeline(config: Path, dtype: torch.dtype, device: str) -> Any:
    import diffusers
    import transformers

    torch.manual_seed(0)
    components: dict[str, Any] = {}
    for name, entry in json.loads((config / "model_index.json").read_text()).items():
        if name.startswith("_") or not isinstance(entry, list) or entry[0] is None:
            continue
        kind = getattr({"diffusers": diffusers, "transformers": transformers}[entry[0]], entry[1])
        if "Tokenizer" in entry[1]:
            letters = [chr(code) for code in range(33, 127)]
            words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
            components[name] = transformers.CLIPTokenizer(
                vocab={word: index for index, word in enumerate(words)}, merges=[]
            )
            components[name].model_max_length = 77
        elif not issubclass(kind, torch.nn.Module):
            components[name] = kind.from_config(kind.load_config(config / name))
        else:
            before = torch.get_default_dtype()
            torch.set_default_dtype(dtype)
            try:
                with torch.device(device):
                    made = (
                        kind.from_config(kind.load_config(config / name))
                        if hasattr(kind, "from_config")
                        else kind(kind.config_class.from_pretrained(config / name))
                    )
            finally:
                torch.set_default_dtype(before)
            components[name] = made.to(device, dtype).eval().requires_grad_(False)
    return StableDiffusionXLPipeline(**components)


def _random(kind: Any) -> Any:
    torch.manual_seed(0)
    return kind().requires_grad_(False)


def _write_random_parts(unet: Any, folder: Path, rank: int = 16) -> None:
    """Adapters and LoRAs as published ones are made: files of 16 bits, in every cross-attention of the U-Net."""
    drawn = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return (torch.randn(*shape, generator=drawn) * 0.02).half()

    width = unet.config.cross_attention_dim
    layers = [name.removesuffix(".processor") for name in unet.attn_processors if not name.endswith("attn1.processor")]
    for character in CHARACTERS:
        adapter = {
            "image_proj.proj.weight": random(4 * width, EMBEDDING),
            "image_proj.proj.bias": random(4 * width),
            "image_proj.norm.weight": torch.ones(width).half(),
            "image_proj.norm.bias": torch.zeros(width).half(),
        }
        for number, name in enumerate(layers):
            for key in ("k", "v"):
                inner = unet.get_submodule(name).inner_dim
                adapter[f"ip_adapter.{2 * number + 1}.to_{key}_ip.weight"] = random(inner, width)
        save_file(adapter, str(folder / f"{character}.safetensors"))
    for customer in LORAS:
        lora = {}
        for name in layers:
            for part in ("to_k", "to_v"):
                out, inside = unet.get_submodule(f"{name}.{part}").weight.shape
                lora[f"unet.{name}.{part}.lora_A.weight"] = random(rank, inside)
                lora[f"unet.{name}.{part}.lora_B.weight"] = random(out, rank)
        save_file(lora, str(folder / f"{customer}.safetensors"))
