"""What a study that names no techniques searches on which device, and what comes first there. Needs no GPU."""

import pytest
from paretune.search_space import TECHNIQUES, Target, default_space, known_techniques, offered

PACKAGES = frozenset(package for known in TECHNIQUES for package in known.all_packages())
MEMORY_GIB = {"A100": 80.0, "A10": 24.0, "L40S": 48.0, "H100": 80.0, "GeForce RTX 5090": 32.0}
DEVICES = {
    "CPU": Target(device="cpu", name="CPU", memory_gib=16.0, packages=PACKAGES),
    **{
        name: Target(
            device="cuda",
            name=name,
            compute_capability=capability,
            memory_gib=MEMORY_GIB[name],
            packages=PACKAGES,
        )
        for name, capability in {
            "A100": (8, 0),
            "A10": (8, 6),
            "L40S": (8, 9),
            "H100": (9, 0),
            "GeForce RTX 5090": (12, 0),
        }.items()
    },
}
TABLE = """
                                            CPU  A100  A10  L40S  H100  GeForce RTX 5090
dtype.dtype=float16                          -    x     x    x     x     x
dtype.dtype=bfloat16                         x    x     x    x     x     x
vae_dtype.dtype=float32                      x    x     x    x     x     x
cudnn_benchmark                              -    x     x    x     x     x
tf32                                         -    x     x    x     x     x
fp16_accumulation                            -    -     -    -     -     x
fused_qkv                                    x    x     x    x     x     x
channels_last                                x    x     x    x     x     x
attention_backend.backend=flash              -    x     x    x     x     x
attention_backend.backend=_flash_3           -    -     -    -     x     -
attention_backend.backend=sage               -    x     x    x     x     x
sdpa_kernel.unet=cudnn                       -    x     x    x     x     x
torchao_quantization.scheme=int8_dynamic     x    x     x    x     x     x
torchao_quantization.scheme=float8_dynamic_tensor  -  -  -   x     x     x
torchao_quantization.scheme=float8_dynamic_row     -  -  -   x     x     x
layerwise_casting                            x    x     x    x     x     x
deepcache                                    x    x     x    x     x     x
guidance_cutoff                              x    x     x    x     x     x
torch_compile.mode=default                   x    x     x    x     x     x
torch_compile.mode=max-autotune              -    x     x    x     x     x
torch_compile.recipe=coordinate_descent      -    x     x    x     x     x
torch_compile.recipe=combo_kernels           -    -     -    -     -     -
torch_compile.fullgraph=True                 -    -     -    -     -     -
torch_compile_vae                            x    x     x    x     x     x
torch_compile_text_encoders                  x    x     x    x     x     x
torch_compile_modules.mode=default           x    x     x    x     x     x
module_dtype.dtype=bfloat16                  x    x     x    x     x     x
stable_fast                                  x    x     x    x     x     x
torch_tensorrt                               -    x     x    x     x     x
cuda_graphs                                  -    x     x    x     x     x
cuda_graphs_modules                          -    x     x    x     x     x
lora_merge                                   x    x     x    x     x     x
lora_hotswap.most_rank=64                    x    x     x    x     x     x
lora_hotswap.most_rank=128                   -    -     -    -     -     -
ip_adapter_swap.how=stash                    x    x     x    x     x     x
ip_adapter_swap.how=in_place                 x    x     x    x     x     x
vae_tiling                                   x    x     x    x     x     x
expandable_segments                          -    x     x    x     x     x
text_encoder_offload                         -    x     x    x     x     x
model_offload                                -    x     x    x     x     x
group_offload                                -    x     x    x     x     x
scheduler                                    -    -     -    -     -     -
fewer_steps                                  -    -     -    -     -     -
"""
ROWS = [(line.split()[0], line.split()[1:]) for line in TABLE.strip().splitlines()[1:]]


@pytest.mark.parametrize("device", DEVICES)
def test_what_is_offered_on_a_device(device: str) -> None:
    space, left_out = default_space(DEVICES[device])
    for what, marks in ROWS:
        name, _, choice = what.partition(".")
        parameter, _, value = choice.partition("=")
        offers = space.techniques.get(name)
        found = offers is not None and (not parameter or value in map(str, offers[parameter]))
        assert found is (marks[list(DEVICES).index(device)] == "x"), f"{what} on {device}"
    # Nothing goes missing without a reason, but for what is only on request.
    unsaid = {known.name for known in known_techniques()} - set(space.techniques) - set(left_out)
    assert unsaid == {known.name for known in TECHNIQUES if known.on_request}


def test_kernels_for_hopper_are_never_offered_to_an_l40s_and_float8_products_are() -> None:
    space, left_out = default_space(DEVICES["L40S"])
    assert "_flash_3" not in space.techniques["attention_backend"]["backend"]
    assert left_out["attention_backend.backend=_flash_3"] == "FlashAttention 3 is for compute capability 9.0 only"
    assert "float8_dynamic_row" in space.techniques["torchao_quantization"]["scheme"]
    assert "float8_dynamic_row" not in default_space(DEVICES["A100"])[0].techniques["torchao_quantization"]["scheme"]


def test_without_their_packages_kernels_and_compilers_are_left_out_with_the_command_that_installs_them() -> None:
    bare = Target(device="cuda", name="H100", compute_capability=(9, 0), memory_gib=80.0)
    space, left_out = default_space(bare)
    assert not {"attention_backend", "stable_fast", "torch_tensorrt", "torchao_quantization"} & set(space.techniques)
    assert left_out["stable_fast"].endswith("pip install --no-deps --no-build-isolation stable-fast==1.0.5")
    assert "pip install" in left_out["torch_tensorrt"]
    assert left_out["fp16_accumulation"] == "this GPU adds up as fast in float32"


def test_where_memory_is_small_what_saves_it_is_tried_first() -> None:
    order = {device: [offer.technique for offer in offered(target)] for device, target in DEVICES.items()}
    assert order["A10"].index("text_encoder_offload") < order["A10"].index("cuda_graphs")
    for device in ("A100", "L40S", "H100", "GeForce RTX 5090"):
        assert order[device].index("cuda_graphs") < order[device].index("torch_compile")
        assert order[device].index("torch_compile") < order[device].index("model_offload")
    assert order["CPU"][:3] == ["ip_adapter_swap", "lora_merge", "lora_hotswap"]
    for device, target in DEVICES.items():
        assert set(order[device]) == set(default_space(target)[0].techniques)


def test_a_processor_without_bfloat16_is_not_offered_it() -> None:
    old = Target(device="cpu", name="CPU", memory_gib=16.0, packages=PACKAGES, cpu_has_bfloat16=False)
    space, left_out = default_space(old)
    for name in ("dtype", "vae_dtype"):
        assert "bfloat16" in default_space(DEVICES["CPU"])[0].techniques[name]["dtype"]
        assert "bfloat16" not in space.techniques[name]["dtype"]
    assert "many times slower than float32" in left_out["dtype.dtype=bfloat16"]
