"""Which combinations of techniques are refused, and why, is what it was: refused_combinations.json keeps every answer.

To keep what is refused now, after a change that is meant: `python tests/search_space/test_refused_combinations.py`.
"""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from paretune.search_space import Configuration, ModuleFacts, PipelineFacts, Role, Target, impossible
from paretune.search_space._rules import RULES, Case

KEPT = Path(__file__).with_name("refused_combinations.json")
CHOICES: dict[str, list[dict[str, Any]]] = {
    "dtype": [{"dtype": "float32"}, {"dtype": "float16"}, {"dtype": "bfloat16"}],
    "vae_dtype": [{"dtype": "float32"}],
    "tf32": [{}],
    "fp16_accumulation": [{}],
    "fused_qkv": [{}],
    "attention_backend": [{"backend": "_native_efficient"}, {"backend": "_native_cudnn"}],
    "channels_last": [{}],
    "torchao_quantization": [
        {"scheme": "int8_weight_only"},
        {"scheme": "int8_dynamic"},
        {"scheme": "float8_dynamic_tensor"},
        {"scheme": "float8_dynamic_row"},
    ],
    "layerwise_casting": [{}],
    "deepcache": [{"interval": 3, "branch": 0, "full_percent": 0}],
    "first_block_cache": [{}],
    "forecast_cache": [{}, {"forecast": "deep_features"}],
    "torch_compile": [
        {},
        {"mode": "reduce-overhead"},
        {"region": "repeated_blocks"},
        {"region": "all_blocks", "mode": "max-autotune"},
    ],
    "torch_compile_vae": [{}, {"mode": "reduce-overhead"}],
    "torch_compile_text_encoders": [{}],
    "stable_fast": [{}, {"cuda_graph": True}],
    "cuda_graphs": [{"modules": modules} for modules in ("denoiser", "denoiser_vae", "denoiser_vae_text")],
    "pyramid_attention_broadcast": [{}],
    "guidance_interval": [{}],
    "prompt_embedding_cache": [{}],
    "guidance_cutoff": [{"guided_percent": 70}],
    "sdpa_kernel": [{"unet": kernel, "vae": "default"} for kernel in ("flash", "efficient")]
    + [{"unet": "default", "vae": "math"}],
    "vae_slicing": [{}],
    "vae_tiling": [{}],
    "model_offload": [{}],
    "group_offload": [{"level": "block_level"}, {"level": "leaf_level"}],
    "text_encoder_offload": [{}],
}
"""Every value that a rule asks about, and one of the others."""


def _target(device: str, *capability: int) -> Target:
    return Target(
        device=device,
        name=device,
        compute_capability=(capability[0], capability[1]) if capability else None,
        packages=frozenset({"torchao", "stable-fast"}),
    )


def _pipelines(dtype: str, adapters: bool = False) -> dict[str, PipelineFacts]:
    modules = {
        "unet": ModuleFacts(
            class_name="UNet2DConditionModel",
            role=Role.DENOISER,
            dtype=dtype,
            parameters_m=2567.0,
            layers_per_block=2,
            fuses_qkv=True,
            has_repeated_blocks=True,
            has_blocks=True,
            casts_layers=True,
        ),
        "vae": ModuleFacts(
            class_name="AutoencoderKL",
            role=Role.VAE,
            dtype=dtype,
            parameters_m=84.0,
            tile_side_px=512,
            force_upcast=True,
        ),
        "text_encoder": ModuleFacts(
            class_name="CLIPTextModel", role=Role.TEXT_ENCODER, dtype=dtype, parameters_m=123.0
        ),
    }
    return {
        "main": PipelineFacts(
            class_name="StableDiffusionXLPipeline",
            modules=modules,
            largest_batch=4,
            largest_side_px=1024,
            adapters=adapters,
        )
    }


SITUATIONS = {
    "CPU, float32": (_target("cpu"), _pipelines("float32")),
    "H100, float32": (_target("cuda", 9, 0), _pipelines("float32")),
    "H100, float16, adapters": (_target("cuda", 9, 0), _pipelines("float16", adapters=True)),
    "T4, bfloat16": (_target("cuda", 7, 5), _pipelines("bfloat16")),
}


def _combinations() -> Iterator[tuple[tuple[str, dict[str, Any]], ...]]:
    """Every technique, pair and triple, with each of its choices; smaller ones first."""
    for number in (1, 2, 3):
        for names in itertools.combinations(CHOICES, number):
            for values in itertools.product(*(CHOICES[name] for name in names)):
                yield tuple(zip(names, values, strict=True))


def answers(target: Target, pipelines: dict[str, PipelineFacts]) -> dict[str, list[str]]:
    """{reason, or "works": combinations}, without those whose answer follows from a smaller combination.

    What contains a refused combination is taken to be refused, unless it also contains a larger one that "works".
    """
    refused: set[frozenset[str]] = set()
    works: set[frozenset[str]] = set()
    found: dict[str, list[str]] = {}
    for combination in _combinations():
        configuration = Configuration.of(combination)
        words = str(configuration).split(" + ")
        reason = impossible(configuration, target, pipelines)
        parts = {frozenset(part) for size in (1, 2) for part in itertools.combinations(words, size)}
        follows = any(not any(part < larger for larger in parts & works) for part in parts & refused)
        if (reason is not None) != follows:
            (works if reason is None else refused).add(frozenset(words))
            found.setdefault(reason or "works", []).append(" + ".join(words))
    return found


@pytest.mark.parametrize("situation", SITUATIONS)
def test_what_is_refused_is_what_was_refused(situation: str) -> None:
    assert answers(*SITUATIONS[situation]) == json.loads(KEPT.read_text())[situation]


def test_only_what_torch_compile_records_is_refused_beside_other_recordings() -> None:
    def reasons(other: dict[str, Any]) -> list[str]:
        configuration = Configuration.of({"cuda_graphs_modules": {}, **other})
        case = Case.of(configuration, _target("cuda", 9, 0), _pipelines("float16"))
        return [reason for rule in RULES if (reason := rule.refuses(case)) and "records" in reason]

    assert reasons({"torch_compile": {"mode": "reduce-overhead"}})
    assert not reasons({"torch_compile": {"mode": "default"}})
    assert not reasons({"stable_fast": {"cuda_graph": True}})


if __name__ == "__main__":
    kept = {name: answers(*situation) for name, situation in SITUATIONS.items()}
    KEPT.write_text(json.dumps(kept, indent=1) + "\n")
