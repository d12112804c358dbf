"""A configuration is the same however it is written, and says everything."""

import json
from typing import Any

import pytest
import yaml
from paretune.search_space import TECHNIQUES, Configuration, Loss, Parameters, technique

EVERY_TECHNIQUE = {known.name: known.parameters().model_dump() for known in TECHNIQUES}
SOME: list[dict[str, dict[str, Any]]] = [
    {},
    {"fused_qkv": {}},
    {"deepcache": {"interval": 2, "branch": 0}},
    {"deepcache": {"interval": 2, "branch": 1}},
    {"channels_last": {}, "torch_compile": {"region": "whole", "mode": "default"}},
    EVERY_TECHNIQUE,
]


@pytest.mark.parametrize("techniques", SOME)
def test_yaml_and_plain_data_bring_back_the_same(techniques: dict[str, dict[str, Any]]) -> None:
    configuration = Configuration.of(techniques)
    assert Configuration.from_yaml(configuration.to_yaml()) == configuration
    assert Configuration.from_dict(json.loads(json.dumps(configuration.to_dict()))) == configuration
    assert hash(Configuration.from_yaml(configuration.to_yaml())) == hash(configuration)


def test_keys_are_different_for_different_configurations() -> None:
    assert len({Configuration.of(techniques).key for techniques in SOME}) == len(SOME)


def test_key_is_the_same_on_every_machine_and_in_every_version() -> None:
    # Measurements in people's databases are found by it.
    assert Configuration().key == "26e1bc714975fd3b"
    assert Configuration.of({"fused_qkv": {}}).key == "7d6960668709fc18"
    assert Configuration.of(EVERY_TECHNIQUE).key == "063dc0d77f6298e9"
    assert [step.technique for step in Configuration.of(EVERY_TECHNIQUE).steps] == [
        "dtype",
        "vae_dtype",
        "module_dtype",
        "cudnn_benchmark",
        "tf32",
        "fp16_accumulation",
        "expandable_segments",
        "ip_adapter_swap",
        "lora_merge",
        "lora_hotswap",
        "scheduler",
        "fused_qkv",
        "attention_backend",
        "channels_last",
        "torchao_quantization",
        "layerwise_casting",
        "fewer_steps",
        "deepcache",
        "first_block_cache",
        "forecast_cache",
        "torch_compile",
        "torch_compile_vae",
        "torch_compile_text_encoders",
        "torch_compile_modules",
        "stable_fast",
        "torch_tensorrt",
        "cuda_graphs",
        "cuda_graphs_modules",
        "pyramid_attention_broadcast",
        "transformer_first_block_cache",
        "taylorseer_cache",
        "mag_cache",
        "faster_cache",
        "cache_dit",
        "guidance_cutoff",
        "guidance_interval",
        "prompt_embedding_cache",
        "sdpa_kernel",
        "vae_slicing",
        "vae_tiling",
        "model_offload",
        "group_offload",
        "text_encoder_offload",
    ]


def test_order_and_defaults_make_no_difference() -> None:
    forwards = Configuration.of({name: {} for name in EVERY_TECHNIQUE})
    backwards = Configuration.of(list(reversed(EVERY_TECHNIQUE.items())))
    assert forwards == backwards
    assert forwards.key == backwards.key
    assert [step.technique for step in forwards.steps] == [known.name for known in TECHNIQUES]


def test_nothing_is_left_to_a_default_in_the_file() -> None:
    written = yaml.safe_load(Configuration.of({"torch_compile": {}}).to_yaml())
    everything = {"region": "whole", "mode": "default", "recipe": "none", "dynamic": "auto", "fullgraph": False}
    assert written == {"schema": 1, "techniques": [{"torch_compile": everything}]}


@pytest.mark.parametrize(
    ("techniques", "loss"),
    [
        ({}, Loss.BIT_IDENTICAL),
        ({"model_offload": {}}, Loss.BIT_IDENTICAL),
        ({"torch_compile": {}, "model_offload": {}}, Loss.REORDERED),
        ({"torch_compile": {}, "deepcache": {}, "model_offload": {}}, Loss.APPROXIMATE),
    ],
)
def test_it_loses_what_its_worst_technique_loses(techniques: dict[str, dict[str, Any]], loss: Loss) -> None:
    assert Configuration.of(techniques).loss is loss


def test_words() -> None:
    assert str(Configuration()) == "reference"
    several = Configuration.of({"fused_qkv": {}, "dtype": {"dtype": "bfloat16"}, "torch_compile_vae": {}})
    assert str(several) == "dtype(bfloat16) + fused_qkv + torch_compile_vae(parts=decoder, mode=default)"
    assert several.get("torch_compile_vae") == {"parts": "decoder", "mode": "default"}
    assert several.get("vae_tiling") is None


@pytest.mark.parametrize(
    ("techniques", "sentence"),
    [
        ([("deepcach", {})], "there is no technique 'deepcach'; did you mean deepcache?"),
        ([("xyz", {})], "there is no technique 'xyz'; there are dtype, vae_dtype, "),
        ([("deepcache", {"speed": 3})], "deepcache has no parameter 'speed'; it has interval, branch"),
        ([("fused_qkv", {"speed": 3})], "fused_qkv has no parameter 'speed'; it has none"),
        ([("deepcache", {"interval": 9})], "deepcache.interval cannot be 9; it is one of 2, 3, 4, 5"),
        ([("deepcache", {"interval": True})], "deepcache.interval cannot be True; "),
        ([("deepcache", {"interval": 2.0})], "deepcache.interval cannot be 2.0; "),
        ([("deepcache", {"interval": [2]})], "deepcache.interval cannot be [2]; "),
        ([("torch_compile", {"fullgraph": 1})], "torch_compile.fullgraph cannot be 1; it is one of False, True"),
        ([("deepcache", 3)], "deepcache: parameters are a mapping of interval, branch, "),
        ([("fused_qkv", {}), ("fused_qkv", {})], "a configuration names each technique once"),
    ],
)
def test_what_it_refuses(techniques: list[tuple[str, Any]], sentence: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011 (the text is compared below)
        Configuration.of(techniques)
    assert str(raised.value).startswith(sentence)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("techniques: [", "not YAML: "),
        ("3", "a configuration is a mapping with the keys schema and techniques (a list)"),
        ("schema: 1", "a configuration is a mapping with the keys schema and techniques (a list)"),
        ("{schema: 1, techniques: {}}", "a configuration is a mapping with the keys schema and techniques (a list)"),
        ("{schema: 1, techniques: [], speed: 3}", "a configuration has no key 'speed', only schema and techniques"),
        ("{schema: 2, techniques: []}", "configuration schema 2 is not 1, which this version reads"),
        ("{techniques: []}", "configuration schema None is not 1, which this version reads"),
        ("{1: x, b: c, schema: 1, techniques: []}", "a configuration has no key 1, only schema and techniques"),
        ("[" * 3000, "not a configuration: it is nested too deeply"),
        ("{schema: 1, techniques: [{deepcache: false}]}", "each technique is written as 'name: {parameters}', not {'d"),
        ("{schema: 1, techniques: [{a: {}, b: {}}]}", "each technique is written as 'name: {parameters}', not {'a': "),
    ],
)
def test_a_file_that_is_no_configuration(text: str, sentence: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011 (the text is compared below)
        Configuration.from_yaml(text)
    assert str(raised.value).startswith(sentence)
    assert "\n" not in str(raised.value)


def test_a_technique_may_be_written_by_its_name_alone() -> None:
    short = Configuration.from_yaml("{schema: 1, techniques: [fused_qkv, deepcache:]}")
    assert short == Configuration.of({"fused_qkv": {}, "deepcache": {}})


@pytest.mark.parametrize("known", TECHNIQUES, ids=lambda known: known.name)
def test_every_combination_of_a_techniques_choices_is_a_configuration_of_its_own(known: Any) -> None:
    combinations = list(known.parameters.combinations())
    keys = {Configuration.of({known.name: parameters.model_dump()}).key for parameters in combinations}
    assert len(keys) == len(combinations)
    assert all(isinstance(parameters, Parameters) for parameters in combinations)
    assert technique(known.name) is known
