"""Random weights in the layouts that metrics with weights read, always the same, written on the spot."""

import importlib
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

ALEXNET = {0: (64, 3, 11, 11), 3: (192, 64, 5, 5), 6: (384, 192, 3, 3), 8: (256, 384, 3, 3), 10: (256, 256, 3, 3)}
CLIP_SIDE_PX = 32


def lpips_weights() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """AlexNet's convolutions and LPIPS's heads, under the published keys. Uniform, since those draws are exact."""
    generator = torch.Generator().manual_seed(0)
    trunk, heads = {}, {}
    for layer, (place, shape) in enumerate(ALEXNET.items()):
        spread = (24 / math.prod(shape[1:])) ** 0.5  # what keeps the features' size from layer to layer
        trunk[f"features.{place}.weight"] = (torch.rand(shape, generator=generator) - 0.5) * spread
        trunk[f"features.{place}.bias"] = (torch.rand(shape[0], generator=generator) - 0.5) * 0.2
        heads[f"lin{layer}.model.1.weight"] = torch.rand(1, shape[0], 1, 1, generator=generator)
    return trunk, heads


def write_lpips(folder: Path) -> Path:
    """Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    trunk, heads = lpips_weights()
    torch.save(trunk, folder / "alexnet-owt-7be5be79.pth")
    torch.save(heads, folder / "alex.pth")
    return folder


def write_clip(folder: Path) -> Path:
    """A CLIP model that takes pictures of 32 px, with its processor and tokenizer; returns the folder."""
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1}
    for letter in "abcdefghijklmnopqrstuvwxyz":
        vocabulary[letter] = len(vocabulary)
        vocabulary[f"{letter}</w>"] = len(vocabulary)
    layers = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = CLIPConfig(
        text_config={"vocab_size": len(vocabulary), "max_position_embeddings": 16, **layers, **ends},
        vision_config={"image_size": CLIP_SIDE_PX, "patch_size": 8, **layers},
        projection_dim=16,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIPModel(config)
    for parameter in model.parameters():  # as they are drawn, all pictures and prompts would be much the same
        if parameter.ndim > 1:
            parameter.data *= 8
    model.save_pretrained(folder)
    CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder)
    size = {"height": CLIP_SIDE_PX, "width": CLIP_SIDE_PX}
    CLIPImageProcessorPil(size={"shortest_edge": CLIP_SIDE_PX}, crop_size=size).save_pretrained(folder)
    return folder


def write_hpsv2(folder: Path, architecture: str) -> Path:
    """A CLIP model of that name, which open_clip knows from now on, as HPS v2.1 is kept; returns the file."""
    open_clip = importlib.import_module("open_clip")
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": CLIP_SIDE_PX, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
    (folder / f"{architecture}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / f"{architecture}.json")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.create_model(architecture)
    torch.save({"state_dict": model.state_dict()}, folder / "HPS.pt")
    return folder / "HPS.pt"


_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_LETTERS, *(f"##{letter}" for letter in _LETTERS)]


def image_reward_weights() -> dict[str, Tensor]:
    """ImageReward with two layers of width 128, under the published keys. Uniform, since those draws are exact."""
    width, hidden, words = 128, 256, len(_WORDS) + 2
    embeddings: dict[str, tuple[int, ...]] = {
        "blip.visual_encoder.cls_token": (1, 1, width),
        "blip.visual_encoder.pos_embed": (1, 14 * 14 + 1, width),
        "blip.visual_encoder.patch_embed.proj.weight": (width, 3, 16, 16),
        "blip.text_encoder.embeddings.word_embeddings.weight": (words, width),
        "blip.text_encoder.embeddings.position_embeddings.weight": (40, width),
    }
    norms, linear = ["blip.visual_encoder.norm", "blip.text_encoder.embeddings.LayerNorm"], {}
    for layer in range(2):
        block = f"blip.visual_encoder.blocks.{layer}"
        norms += [f"{block}.norm1", f"{block}.norm2"]
        linear |= {f"{block}.attn.qkv": (3 * width, width), f"{block}.attn.proj": (width, width)}
        linear |= {f"{block}.mlp.fc1": (hidden, width), f"{block}.mlp.fc2": (width, hidden)}
        block = f"blip.text_encoder.encoder.layer.{layer}"
        norms.append(f"{block}.output.LayerNorm")
        linear |= {f"{block}.intermediate.dense": (hidden, width), f"{block}.output.dense": (width, hidden)}
        for attention in (f"{block}.attention", f"{block}.crossattention"):
            norms.append(f"{attention}.output.LayerNorm")
            linear |= {f"{attention}.self.{part}": (width, width) for part in ("query", "key", "value")}
            linear[f"{attention}.output.dense"] = (width, width)
    sizes = (width, 1024, 128, 64, 16, 1)
    linear |= {f"mlp.layers.{place}": (sizes[i + 1], sizes[i]) for i, place in enumerate((0, 2, 4, 6, 7))}

    generator = torch.Generator().manual_seed(0)

    def draw(shape: tuple[int, ...], spread: float) -> Tensor:
        return (torch.rand(shape, generator=generator) - 0.5) * spread

    # Embeddings small, as trained ones are: then the epsilons of the normalisations count.
    weights = {name: draw(shape, 0.01) for name, shape in embeddings.items()}
    weights["blip.visual_encoder.patch_embed.proj.bias"] = draw((width,), 0.01)
    for name, shape in linear.items():
        weights[f"{name}.weight"] = draw(shape, (24 / shape[1]) ** 0.5)
        weights[f"{name}.bias"] = draw(shape[:1], 0.2)
    for name in norms:
        weights[f"{name}.weight"], weights[f"{name}.bias"] = 1 + draw((width,), 0.2), draw((width,), 0.2)
    weights["blip.text_encoder.embeddings.position_ids"] = torch.arange(40)[None]  # published too, and not needed
    return weights


def write_image_reward(folder: Path) -> Path:
    """Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(image_reward_weights(), folder / "ImageReward.pt")
    (folder / "vocab.txt").write_text("\n".join(_WORDS) + "\n")
    return folder


_HUB = """
import torch
from dreamsim.feature_extraction.vision_transformer import vit_base

def dino_vitb16():
    model = vit_base(patch_size=16)
    model.load_state_dict(torch.hub.load_state_dict_from_url("https://not.read/dino_vitbase16_pretrain.pth"))
    return model
"""


def write_dreamsim(folder: Path) -> Path:
    """The three ViTs in full size (there is no smaller one), in half precision; returns the folder."""
    vits: Any = importlib.import_module("dreamsim.feature_extraction.vision_transformer")
    model: Any = importlib.import_module("dreamsim.model")
    for sub in ("checkpoints", "facebookresearch_dino_main"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    (folder / "facebookresearch_dino_main" / "hubconf.py").write_text(_HUB)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = {name: tensor.half() for name, tensor in vits.vit_base(patch_size=16).state_dict().items()}
        normalised = {f"pos_drop.{part}": torch.full((768,), value) for part, value in (("weight", 1.0), ("bias", 0.0))}
        torch.save(weights, folder / "checkpoints" / "dino_vitbase16_pretrain.pth")
        for name in ("clip_vitb16_pretrain.pth.tar", "open_clip_vitb16_pretrain.pth.tar"):
            state = {**weights, **normalised, "proj": torch.randn(768, 512)}
            torch.save({"state_dict": state}, folder / name)
        dino_head = vits.DINOHead(768, 2048)
        head = {f"module.head.{name}": tensor for name, tensor in dino_head.state_dict().items()}
        head["module.head.last_layer.weight"] = dino_head.last_layer.weight.detach().clone()
        torch.save({"student": head}, folder / "dino_vitb16_pretrain.pth")
        hub = torch.hub.get_dir()
        ensemble = model.PerceptualModel(
            **model.dreamsim_args["model_config"]["ensemble"], device="cpu", load_dir=str(folder)
        )
        torch.hub.set_dir(hub)
        lora = model.LoraConfig(r=4, lora_alpha=2, lora_dropout=0.0, bias="none", target_modules=["qkv"])
        model.get_peft_model(ensemble, lora).save_pretrained(folder / "ensemble_lora")
    return folder
