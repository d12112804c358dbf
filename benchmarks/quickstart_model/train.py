"""Trains the quickstart model from nothing, on faces that a program draws.

    python -m benchmarks.quickstart_model.train --out model            # one GPU, a few minutes
    python -m benchmarks.quickstart_model.train --out /tmp/m --smoke   # seconds on a CPU: does every step still run?

First the tokenizer and the autoencoder, then the U-Net and both text encoders together on the autoencoder's latents.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from . import architecture
from .captions import caption
from .drawing import draw
from .faces import random_face

CAPTIONS_PER_FACE = 4
FACES_PER_CHUNK = 128


@dataclass(frozen=True)
class Recipe:
    """How long and how hard to train. Counted in steps, never in seconds: the same everywhere."""

    faces: int = 65_536
    vae_steps: int = 6_000
    vae_batch: int = 48  # many small steps: at 96 the autoencoder still blurred after 1100 steps
    vae_rate: float = 1e-3
    unet_steps: int = 3_200
    unet_batch: int = 512
    unet_rate: float = 8e-4
    empty_prompts: float = 0.12  # share of prompts left empty, for guidance
    seed: int = 0


SMOKE = Recipe(faces=16, vae_steps=1, vae_batch=2, unet_steps=1, unet_batch=2)


def draw_chunk(first_seed: int) -> tuple[NDArray[np.uint8], list[str]]:
    """`FACES_PER_CHUNK` pictures (N, 128, 128, 3) and `CAPTIONS_PER_FACE` sentences for each."""
    pictures, captions = [], []
    for seed in range(first_seed, first_seed + FACES_PER_CHUNK):
        face = random_face(seed)
        pictures.append(np.asarray(draw(face)))
        rng = random.Random(seed + 2_000_000_011)
        captions += [caption(face, rng) for _ in range(CAPTIONS_PER_FACE)]
    return np.stack(pictures), captions


def draw_data(faces: int) -> tuple[Tensor, list[str]]:
    """Pictures (N, 3, 128, 128) as bytes, and the sentences for all of them in order."""
    starts = range(0, faces, FACES_PER_CHUNK)
    chunks: Iterable[tuple[NDArray[np.uint8], list[str]]]
    if len(starts) == 1:
        chunks = map(draw_chunk, starts)
    else:
        # Forked, because a fresh process would import torch and diffusers for longer than it draws.
        with multiprocessing.get_context("fork").Pool(os.cpu_count()) as pool:
            chunks = pool.map(draw_chunk, starts)
    pictures, captions = zip(*chunks, strict=True)
    pixels = torch.from_numpy(np.concatenate(pictures)[:faces]).permute(0, 3, 1, 2).contiguous()
    return pixels, [sentence for chunk in captions for sentence in chunk][: faces * CAPTIONS_PER_FACE]


class Clock:
    """How far a stage has come, and what to print about it."""

    def __init__(self, name: str, steps: int) -> None:
        self.name, self.steps = name, steps
        self.step = 0
        self.start = self.last_print = time.monotonic()

    def learning_rate(self, peak: float) -> float:
        """A short warm-up, then half a cosine down to nothing."""
        warm = min(1.0, (self.step + 1) / min(200, max(1, self.steps // 10)))
        return peak * warm * 0.5 * (1 + math.cos(math.pi * self.step / self.steps))

    def tick(self, losses: Callable[[], str]) -> None:
        self.step += 1
        now = time.monotonic()
        if now - self.last_print > 10 or self.step == self.steps:
            rate = self.step / (now - self.start)
            print(f"{self.name}: step {self.step}/{self.steps}, {rate:.1f} steps/s, {losses()}", flush=True)
            self.last_print = now


def new_optimizer(parameters: Iterable[Tensor], rate: float) -> torch.optim.AdamW:
    """AdamW that decays weight matrices and kernels, not norms and biases."""
    parameters = list(parameters)
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.01},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.99), fused=True)


def half_precision(device: torch.device) -> torch.autocast:
    """bfloat16 on a GPU; many CPUs would be slower for it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def to_range(pixels: Tensor) -> Tensor:
    """Bytes to [-1, 1]."""
    return pixels.float().div_(127.5).sub_(1.0)


def train_vae(vae: AutoencoderKL, pixels: Tensor, recipe: Recipe) -> None:
    """Learns to compress pictures: pixels (N, 3, 128, 128) as bytes on the device."""
    device = pixels.device
    memory = torch.channels_last if device.type == "cuda" else torch.contiguous_format
    vae.train().to(memory_format=memory)
    optimizer = new_optimizer(vae.parameters(), recipe.vae_rate)
    clock = Clock("autoencoder", recipe.vae_steps)
    while clock.step < clock.steps:
        for group in optimizer.param_groups:
            group["lr"] = clock.learning_rate(recipe.vae_rate)
        chosen = torch.randint(len(pixels), (recipe.vae_batch,), device=device)
        real = to_range(pixels[chosen]).contiguous(memory_format=memory)
        with half_precision(device):
            posterior = vae.encode(real).latent_dist
            drawn = vae.decode(posterior.sample()).sample
        drawn = drawn.float()
        colours = functional.l1_loss(drawn, real)
        # Outlines make a comic: what differs between neighbouring pixels has to be right too.
        edges = functional.l1_loss(drawn.diff(dim=-1), real.diff(dim=-1))
        edges = edges + functional.l1_loss(drawn.diff(dim=-2), real.diff(dim=-2))
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        loss = colours + 0.5 * edges + 1e-4 * divergence
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        clock.tick(lambda c=colours, e=edges, d=divergence: f"L1 {c:.4f}, edges {e:.4f}, KL {d:.2f}")  # type: ignore[misc]
    vae.eval()


@torch.no_grad()
def encode_all(vae: AutoencoderKL, pixels: Tensor, batch: int = 512) -> Tensor:
    """Latents (N, 4, 16, 16) of all pictures, scaled to a deviation of 1; sets the autoencoder's `scaling_factor`."""
    latents = torch.cat([vae.encode(to_range(part)).latent_dist.mean for part in pixels.split(batch)])
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
    scaled: Tensor = latents * vae.config.scaling_factor
    return scaled


class TextToLatents(nn.Module):
    """The U-Net with both text encoders in front, called as the pipeline calls them."""

    def __init__(
        self, text_encoder: CLIPTextModel, text_encoder_2: CLIPTextModelWithProjection, unet: UNet2DConditionModel
    ) -> None:
        super().__init__()
        self.text_encoder, self.text_encoder_2, self.unet = text_encoder, text_encoder_2, unet

    def forward(self, noisy: Tensor, timesteps: Tensor, tokens: Tensor, keep: Tensor, sizes: Tensor) -> Tensor:
        """noisy (B, 4, H, W), timesteps (B,), tokens (B, 77), keep (B,) 1 or 0, sizes (B, 2) -> velocity (B, 4, H, W).

        Where `keep` is 0 the embeddings are zeros: what the pipeline uses when there is no negative prompt.
        """
        first = self.text_encoder(tokens, output_hidden_states=True).hidden_states[-2]
        second = self.text_encoder_2(tokens, output_hidden_states=True)
        states = torch.cat([first, second.hidden_states[-2]], dim=-1) * keep[:, None, None]
        pooled = second.text_embeds * keep[:, None]
        time_ids = torch.cat([sizes, torch.zeros_like(sizes), sizes], dim=-1)
        conditions = {"text_embeds": pooled, "time_ids": time_ids}
        velocity: Tensor = self.unet(noisy, timesteps, states, added_cond_kwargs=conditions, return_dict=False)[0]
        return velocity


def train_unet(model: TextToLatents, latents: Tensor, tokens: Tensor, empty: Tensor, recipe: Recipe) -> None:
    """Learns to draw: latents (N, 4, 16, 16), tokens (N, captions, 77), empty (77,), all on the device.

    Leaves the moving average of the weights in the model.
    """
    device = latents.device
    model.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    parameters: list[Tensor] = list(model.parameters())
    average = [p.detach().clone() for p in parameters]
    optimizer = new_optimizer(parameters, recipe.unet_rate)
    signal = architecture.new_scheduler().alphas_cumprod.to(device)
    clock = Clock("U-Net", recipe.unet_steps)
    batch = recipe.unet_batch
    mean_loss = torch.zeros((), device=device)
    while clock.step < clock.steps:
        for group in optimizer.param_groups:
            group["lr"] = clock.learning_rate(recipe.unet_rate)
        chosen = torch.randint(len(latents), (batch,), device=device)
        said = tokens[chosen, torch.randint(tokens.shape[1], (batch,), device=device)]
        # No prompt reaches the U-Net in two ways: as zeros (no negative prompt) and as "" encoded (an empty one).
        fate = torch.rand(batch, device=device)
        said = torch.where((fate < recipe.empty_prompts / 2)[:, None], empty, said)
        keep = (fate < 1 - recipe.empty_prompts / 2).float()
        # The sizes say nothing here. Drawn at random, they are ignored, and other sizes of picture stay usable.
        sizes = torch.randint(64, 257, (batch, 2), device=device).float()
        clean = latents[chosen]
        noise = torch.randn_like(clean)
        timesteps = torch.randint(len(signal), (batch,), device=device)
        alpha = signal[timesteps].sqrt()[:, None, None, None]
        sigma = (1 - signal[timesteps]).sqrt()[:, None, None, None]
        noisy = (alpha * clean + sigma * noise).contiguous(memory_format=torch.channels_last)
        with half_precision(device):
            velocity = model(noisy, timesteps, said, keep, sizes)
        loss = functional.mse_loss(velocity.float(), alpha * noise - sigma * clean)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        with torch.no_grad():
            weight = max(1 - 0.999, 9 / (clock.step + 10))  # the first weights are soon forgotten
            torch._foreach_lerp_(average, parameters, weight)
            mean_loss.lerp_(loss.detach(), 0.02 if clock.step else 1.0)
        clock.tick(lambda: f"loss {mean_loss.item():.4f}")
    with torch.no_grad():
        for parameter, value in zip(parameters, average, strict=True):
            parameter.copy_(value)
    model.eval()


def tokenized(tokenizer: CLIPTokenizer, sentences: list[str]) -> Tensor:
    """(N, 77), padded and cut as the pipeline does."""
    ids: Tensor = tokenizer(
        sentences, padding="max_length", max_length=architecture.MAX_TOKENS, truncation=True, return_tensors="pt"
    ).input_ids
    return ids


def save(pipeline: StableDiffusionXLPipeline, out: Path) -> None:
    """Writes the pipeline in half precision, one file of weights for each part."""
    for name, part in pipeline.components.items():
        if isinstance(part, nn.Module):
            part.to("cpu", torch.float16).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
            print(f"{name}: {sum(p.numel() for p in part.parameters()) / 1e6:.2f} M parameters")
    pipeline.save_pretrained(out)
    for name in ("tokenizer", "tokenizer_2"):  # vocab.json and merges.txt, as SDXL's folders have them
        getattr(pipeline, name).backend_tokenizer.model.save(str(out / name))
    for name in ("text_encoder", "text_encoder_2"):
        # Without a dtype asked for, transformers loads what the configuration says, diffusers float32: let them agree.
        file = out / name / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "dtype": "float32"}, indent=2) + "\n")


def train(out: Path, device: torch.device, recipe: Recipe) -> None:
    """Trains everything and writes the pipeline to `out`, in half precision."""
    start = time.monotonic()

    def say(what: str) -> None:
        print(f"[{time.monotonic() - start:5.0f} s] {what}", flush=True)

    pixels, sentences = draw_data(recipe.faces)
    say(f"drew {len(pixels)} faces")
    torch.manual_seed(recipe.seed)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    tokenizer = architecture.new_tokenizer(sentences[::CAPTIONS_PER_FACE])
    tokens = tokenized(tokenizer, sentences).view(len(pixels), CAPTIONS_PER_FACE, -1).to(device)
    empty = tokenized(tokenizer, [""])[0].to(device)
    say(f"tokenizer of {len(tokenizer)} tokens")
    pixels = pixels.to(device)

    vae = architecture.new_vae().to(device)
    train_vae(vae, pixels, recipe)
    latents = encode_all(vae, pixels)
    say(f"autoencoder trained; scaling factor {vae.config.scaling_factor}")

    text_encoder, text_encoder_2 = architecture.new_text_encoders(tokenizer)
    unet = architecture.new_unet()
    model = TextToLatents(text_encoder, text_encoder_2, unet).to(device)
    train_unet(model, latents, tokens, empty, recipe)
    say("U-Net and text encoders trained")

    save(architecture.assembled(tokenizer, text_encoder, text_encoder_2, unet, vae), out)
    say(f"written to {out}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the pipeline")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--smoke", action="store_true", help="a few steps on a few faces")
    standard = Recipe()
    for name in (field.name for field in fields(Recipe)):
        value = getattr(standard, name)
        parser.add_argument("--" + name.replace("_", "-"), type=type(value), help=f"standard: {value}")
    arguments = vars(parser.parse_args())
    out, device, smoke = arguments.pop("out"), arguments.pop("device"), arguments.pop("smoke")
    base = SMOKE if smoke else standard
    given = {name: value for name, value in arguments.items() if value is not None}
    train(out, torch.device(device), Recipe(**{**vars(base), **given}))


if __name__ == "__main__":
    main()
