"""Makes what the comic study adds to the quickstart's model: python benchmarks/comic_parts.py (minutes on a CPU)

Two small networks are trained, on drawings with known backgrounds. Two IP-Adapters and two LoRAs are made of the
model's own weights: an adapter shows every cross-attention layer the text tokens of one character, and a LoRA moves the
meaning of some words in those layers (the closed form of UCE, arXiv 2308.14761, cut to a low rank).
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline
from quickstart_model.drawing import draw
from quickstart_model.faces import random_face
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

STUDIES = Path(__file__).parents[1] / "studies"
MODEL, PARTS = STUDIES / "quickstart" / "model", STUDIES / "comic"
EMBEDDING = 8
"""Width of an IP-Adapter's image embedding."""
CHARACTERS = {
    "ann": ("a comic face of a woman with long green hair wearing a crown, pink background", "green hair crown"),
    "ben": ("a comic face of a man with short red hair, wearing sunglasses, yellow background", "red hair sunglasses"),
}
"""{character: (the prompt whose tokens its adapter shows, the words of which the tokens are taken)}."""
CUSTOMERS = {"rose": ("hair", "pink"), "night": ("background", "purple")}
"""{LoRA: (of what, the colour that every colour of it becomes)}."""
RANK = 8


def drawings(seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Pictures (B, 3, 128, 128) in [0, 1] and where they show something, (B, 1, 128, 128)."""
    pictures, masks = [], []
    for seed in seeds:
        face = random_face(seed)
        once, twice = (
            np.asarray(draw(dataclasses.replace(face, background=colour)), dtype=np.float32)
            for colour in ("red", "blue")
        )
        masks.append(torch.from_numpy((np.abs(once - twice).max(2) < 24).astype(np.float32))[None])
        pictures.append(torch.from_numpy(np.asarray(draw(face), dtype=np.float32) / 255).permute(2, 0, 1))
    return torch.stack(pictures), torch.stack(masks)


def train(
    network: nn.Module, batches: Iterator[tuple[Tensor, Tensor]], loss: Callable[..., Tensor], steps: int
) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for step in range(steps):
        given, wanted = next(batches)
        error = loss(network(given), wanted)
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            print(f"{type(network).__name__} step {step + 1}: {error.item():.4f}", flush=True)


def train_networks(steps: int) -> None:
    """Matting and upscaler."""
    sys.path.insert(0, str(PARTS))
    from networks import Matting, Upscaler

    torch.manual_seed(0)
    pictures, masks = drawings(range(5_000_000, 5_000_768))
    chosen = torch.Generator().manual_seed(0)

    def picked(count: int) -> Tensor:
        return torch.randint(len(pictures), (count,), generator=chosen)

    def mattes() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            rows = picked(8)
            yield pictures[rows], masks[rows]

    def pairs() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            large = pictures[picked(8)]
            yield functional.interpolate(large, scale_factor=0.5, mode="area"), large

    for name, network, batches, loss in (
        ("matting", Matting(), mattes(), functional.binary_cross_entropy),
        ("upscaler", Upscaler(), pairs(), functional.l1_loss),
    ):
        train(network, batches, loss, steps)
        save_file(network.state_dict(), str(PARTS / f"{name}.safetensors"))


def tokens_of(pipeline: Any, prompt: str, words: str) -> Tensor:
    """The text tokens (n, width) of these words in a prompt, as the U-Net sees them."""
    embeddings = pipeline.encode_prompt(prompt, device="cpu", do_classifier_free_guidance=False)[0][0]
    said = pipeline.tokenizer(prompt).input_ids
    wanted = {token for word in words.split() for token in pipeline.tokenizer(word).input_ids[1:-1]}
    return embeddings[[at for at, token in enumerate(said) if token in wanted]]


def make_ip_adapters(pipeline: Any) -> None:
    """One file per character, as `load_ip_adapter` reads them, with the character's image embedding beside it."""
    unet = pipeline.unet
    for place, (name, (prompt, words)) in enumerate(CHARACTERS.items()):
        tokens = tokens_of(pipeline, prompt, words)
        tokens = tokens[torch.linspace(0, len(tokens) - 1, 4).round().long()]
        mean, spread = tokens.mean(1, keepdim=True), tokens.std(1, keepdim=True)
        weight = torch.zeros(tokens.numel(), EMBEDDING)
        weight[:, place] = ((tokens - mean) / spread).flatten()
        adapter = {
            "image_proj.proj.weight": weight,
            "image_proj.proj.bias": torch.zeros(tokens.numel()),
            "image_proj.norm.weight": torch.full((tokens.shape[1],), float(spread.mean())),
            "image_proj.norm.bias": torch.full((tokens.shape[1],), float(mean.mean())),
        }
        number = 1
        for layer in unet.attn_processors:
            if not layer.endswith("attn1.processor"):
                attention = unet.get_submodule(layer.removesuffix(".processor"))
                adapter[f"ip_adapter.{number}.to_k_ip.weight"] = attention.to_k.weight.detach().clone()
                adapter[f"ip_adapter.{number}.to_v_ip.weight"] = attention.to_v.weight.detach().clone()
                number += 2
        save_file(
            {key: value.half().contiguous() for key, value in adapter.items()}, str(PARTS / f"{name}.safetensors")
        )


def make_loras(pipeline: Any) -> None:
    """One file per customer: {layer: its lora_A (rank, in) and lora_B (out, rank)}, in the names of PEFT."""
    unet = pipeline.unet
    for name, (what, new) in CUSTOMERS.items():
        moved, becomes, kept = [], [], []
        for hair in ("black", "red", "blonde", "blue", "green"):
            for background in ("yellow", "blue", "green", "white"):
                for person in ("woman", "man"):
                    prompt = f"a comic face of a {person} with long {hair} hair, {background} background"
                    old = hair if what == "hair" else background
                    changed = prompt.replace(f"{old} {what}", f"{new} {what}")
                    before, after = (
                        pipeline.encode_prompt(one, device="cpu", do_classifier_free_guidance=False)[0][0]
                        for one in (prompt, changed)
                    )
                    said = pipeline.tokenizer(prompt).input_ids
                    at = _place_of(pipeline, prompt, old, what)
                    for index in range(len(said)):
                        (moved if index in at else kept).append(before[index])
                        if index in at:
                            becomes.append(after[index])
        old_tokens, new_tokens, other = torch.stack(moved), torch.stack(becomes), torch.stack(kept)
        gram = old_tokens.T @ old_tokens + 0.3 * other.T @ other
        gram += 1e-2 * gram.diagonal().mean() * torch.eye(gram.shape[0])
        shift = (new_tokens - old_tokens).T @ old_tokens @ torch.linalg.inv(gram)
        lora = {}
        for layer in unet.attn_processors:
            if layer.endswith("attn1.processor"):
                continue
            for part in ("to_k", "to_v"):
                path = f"{layer.removesuffix('.processor')}.{part}"
                u, s, v = torch.linalg.svd(unet.get_submodule(path).weight @ shift, full_matrices=False)
                lora[f"unet.{path}.lora_A.weight"] = v[:RANK].contiguous()
                lora[f"unet.{path}.lora_B.weight"] = (u[:, :RANK] * s[:RANK]).contiguous()
        save_file({key: value.detach().half() for key, value in lora.items()}, str(PARTS / f"{name}.safetensors"))


def _place_of(pipeline: Any, prompt: str, colour: str, what: str) -> set[int]:
    """Where the tokens of "COLOUR WHAT" stand in a prompt."""
    said = pipeline.tokenizer(prompt).input_ids
    wanted = pipeline.tokenizer(f"{colour} {what}").input_ids[1:-1]
    start = next(at for at in range(len(said)) if said[at : at + len(wanted)] == wanted)
    return set(range(start, start + len(wanted)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=500, help="of training, for each network; 0 keeps them")
    options = parser.parse_args()
    began = time.perf_counter()
    with torch.no_grad():
        pipeline = StableDiffusionXLPipeline.from_pretrained(MODEL, dtype=torch.float32)
        make_ip_adapters(pipeline)
        make_loras(pipeline)
    if options.steps:
        train_networks(options.steps)
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
