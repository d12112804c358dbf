"""Every technique in every situation in which users' pipelines are: right, or refused in a sentence.

Right is a picture like the one that the untouched pipeline makes in the same situation, as near as the technique's loss
allows, the same again the second time, and with what the situation is about still at work.
"""

import copy
import functools
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    UNet2DConditionModel,
)
from paretune.search_space import Axis, Loss, Technique, technique, torch_modules
from paretune.testing import (
    CLOSE,
    SAME_PICTURE,
    TINY_FACTS,
    attach_lora,
    detach_lora,
    image_to_image,
    inpainting,
    ip_adapter,
    relative_difference,
    sibling,
    this_machine,
    tiny_sd,
    tiny_sdxl,
    with_controlnet,
)
from paretune.testing import picture as tiny_picture

# One picture in three steps, and a smaller U-Net still: there are hundreds of them.
picture = functools.partial(tiny_picture, batch=1, steps=3)


@pytest.fixture(autouse=True)
def quiet_torch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread of torch's, nothing of Dynamo's left from other tests, and no code generated, which takes minutes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compile = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda function, **options: compile(function, **{**options, "backend": "eager"})
    )
    yield
    torch.set_num_threads(threads)


@functools.cache
def _template() -> Any:
    pipeline = tiny_sdxl()
    pipeline.unet = _unet(pipeline, layers_per_block=1)
    return pipeline


def _unet(pipeline: Any, **config: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel.from_config(pipeline.unet.config, **config)
    for name, module in unet.named_modules():
        if name.endswith("attn2.to_v"):
            module.weight.data *= 10  # as in tiny_sdxl: the prompt would hardly show otherwise
    return unet.eval()


def small_sdxl() -> Any:
    """A new pipeline; always the same weights."""
    template = _template()
    return copy.deepcopy(template, {id(each): each for each in (template.tokenizer, template.tokenizer_2)})


IMAGE = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(9))
EMBEDS = [torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(4))]


@dataclass(frozen=True, kw_only=True)
class Situation:
    """One state of a pipeline and one request.

    build: a new pipeline, before anything is applied. later: what happens between apply() and the request.
    make: the picture. seen: what else must be as it is without the technique, after a picture.
    same: whether a technique makes exactly the picture that it makes where there is nothing special; moves: whether it
    has to be another one by at least half of what the situation changes without the technique.
    """

    build: Callable[[], Any]
    make: Callable[[Any], torch.Tensor] = picture
    later: Callable[[Any], None] = lambda pipeline: None
    seen: Callable[[Any], Any] = lambda pipeline: None
    same: bool = False
    moves: bool = False


def _after(change: Callable[[Any], Any]) -> Callable[[], Any]:
    """A builder: the tiny SDXL pipeline, changed."""

    def build() -> Any:
        pipeline = small_sdxl()
        return change(pipeline) or pipeline

    return build


def _count_calls(pipeline: Any) -> None:
    """As profilers do, and hooks that look at the noise."""
    pipeline.calls = calls = []
    pipeline.unet.register_forward_pre_hook(lambda module, args: calls.append(("before", len(args[0]))))
    pipeline.unet.register_forward_hook(lambda module, args, output: calls.append(("after", len(output[0]))))


def _change_the_last_block(pipeline: Any) -> None:
    """As FreeU and its kind do, by a hook."""
    pipeline.unet.up_blocks[-1].register_forward_hook(lambda module, args, output: output * 1.5)


def _offloaded_by_accelerate(pipeline: Any) -> None:
    """accelerate keeps the U-Net's forward() while its hook is there, and pipelines take hooks off and on again."""
    from accelerate.hooks import ModelHook, add_hook_to_module

    add_hook_to_module(pipeline.unet, ModelHook())


def _hook_taken_off(pipeline: Any) -> None:
    from accelerate.hooks import remove_hook_from_module

    picture(pipeline)
    remove_hook_from_module(pipeline.unet)


def _load_ip_adapter(pipeline: Any) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        adapter = ip_adapter(pipeline.unet)
    pipeline.load_ip_adapter(adapter, subfolder="", weight_name="", image_encoder_folder=None)


def _ip_adapter_comes_and_goes(pipeline: Any) -> None:
    _load_ip_adapter(pipeline)
    picture(pipeline, ip_adapter_image_embeds=EMBEDS)
    pipeline.unload_ip_adapter()


def _lora_comes_and_goes(pipeline: Any) -> None:
    attach_lora(pipeline.unet)
    picture(pipeline)
    detach_lora(pipeline.unet)


def _scheduler(scheduler: Any, **options: Any) -> Callable[[], Any]:
    def change(pipeline: Any) -> None:
        pipeline.scheduler = scheduler.from_config(EulerDiscreteScheduler().config, **options)

    return _after(change)


def _compiled(pipeline: Any) -> None:
    """A smaller U-Net, because tracing takes a while."""
    unet = _unet(
        pipeline,
        block_out_channels=(32,),
        down_block_types=("CrossAttnDownBlock2D",),
        mid_block_type=None,
        up_block_types=("CrossAttnUpBlock2D",),
        attention_head_dim=2,
    )
    pipeline.unet = torch.compile(unet)


def _with_callback(pipeline: Any) -> torch.Tensor:
    pipeline.steps = []

    def note(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        pipeline.steps.append((step, float(timestep), tensors["latents"].shape))
        return tensors

    return picture(pipeline, callback_on_step_end=note)


def _long_prompt(pipeline: Any) -> torch.Tensor:
    """Two chunks of 77 tokens, as prompt weighting gives them."""
    first, negative, pooled, negative_pooled = pipeline.encode_prompt("a cat", device=torch.device("cpu"))
    second, other_negative, *_ = pipeline.encode_prompt("the red sea", device=torch.device("cpu"))
    return picture(
        pipeline,
        prompt=None,
        prompt_embeds=torch.cat([first, second], dim=1),
        negative_prompt_embeds=torch.cat([negative, other_negative], dim=1),
        pooled_prompt_embeds=pooled,
        negative_pooled_prompt_embeds=negative_pooled,
    )


def _pictures(pipeline: Any, **request: Any) -> torch.Tensor:
    options = {
        "prompt": "a cat",
        "num_inference_steps": 3,
        "guidance_scale": 5.0,
        "height": 64,
        "width": 64,
        "generator": torch.Generator().manual_seed(5),
        "output_type": "pt",
    }
    options |= request
    made: torch.Tensor = pipeline(**{name: value for name, value in options.items() if value is not None}).images
    return made.float()


def _request(**request: Any) -> Callable[[Any], torch.Tensor]:
    return functools.partial(_pictures, **request)


SITUATIONS: dict[str, Situation] = {
    "nothing special": Situation(build=small_sdxl),
    "a hook on the U-Net": Situation(build=_after(_count_calls), seen=lambda pipeline: list(pipeline.calls), same=True),
    "a hook that changes the last block": Situation(build=_after(_change_the_last_block)),
    "an offload hook of accelerate": Situation(build=_after(_offloaded_by_accelerate), same=True),
    "an offload hook that is taken off later": Situation(
        build=_after(_offloaded_by_accelerate), later=_hook_taken_off, same=True
    ),
    "FreeU": Situation(build=_after(lambda pipeline: pipeline.enable_freeu(s1=0.6, s2=0.4, b1=1.3, b2=1.5))),
    "a LoRA": Situation(build=_after(lambda pipeline: attach_lora(pipeline.unet)), moves=True),
    "a LoRA that is loaded later": Situation(
        build=small_sdxl, later=lambda pipeline: attach_lora(pipeline.unet), moves=True
    ),
    "a LoRA that came and went": Situation(build=small_sdxl, later=_lora_comes_and_goes, same=True),
    "an IP-Adapter": Situation(
        build=_after(_load_ip_adapter), make=functools.partial(picture, ip_adapter_image_embeds=EMBEDS), moves=True
    ),
    "an IP-Adapter that is loaded later": Situation(
        build=small_sdxl,
        later=_load_ip_adapter,
        make=functools.partial(picture, ip_adapter_image_embeds=EMBEDS),
        moves=True,
    ),
    "an IP-Adapter that came and went": Situation(build=small_sdxl, later=_ip_adapter_comes_and_goes, same=True),
    "EDM": Situation(
        build=_scheduler(EDMEulerScheduler, sigma_min=0.002, sigma_max=80.0, sigma_data=0.5, prediction_type="epsilon")
    ),
    "a scheduler of second order": Situation(build=_scheduler(HeunDiscreteScheduler)),
    "a scheduler with a step twice": Situation(build=_scheduler(PNDMScheduler, skip_prk_steps=True)),
    "a multistep scheduler": Situation(build=_scheduler(DPMSolverMultistepScheduler)),
    "no guidance": Situation(build=small_sdxl, make=functools.partial(picture, guidance=1.0)),
    "two prompts": Situation(build=small_sdxl, make=_request(prompt=["a cat", "the red sea"])),
    "two pictures of a prompt": Situation(build=small_sdxl, make=_request(num_images_per_prompt=2)),
    "two equal pictures without guidance": Situation(
        build=small_sdxl,
        make=lambda pipeline: _pictures(
            pipeline,
            prompt=["a cat", "the red sea"],
            guidance_scale=1.0,
            generator=[torch.Generator().manual_seed(5) for _ in range(2)],
        ),
    ),
    "image to image": Situation(
        build=_after(image_to_image), make=_request(image=IMAGE, strength=0.9, height=None, width=None)
    ),
    "inpainting": Situation(
        build=_after(inpainting),
        make=_request(image=IMAGE, mask_image=(IMAGE[:, :1] > 0.5).float(), strength=0.9),
    ),
    "a ControlNet": Situation(build=_after(with_controlnet), make=_request(image=IMAGE)),
    "a callback": Situation(build=small_sdxl, make=_with_callback, seen=lambda pipeline: pipeline.steps, same=True),
    "a long prompt": Situation(build=small_sdxl, make=_long_prompt),
    "an odd size": Situation(build=small_sdxl, make=_request(height=72, width=88)),
    "Stable Diffusion 1.5": Situation(build=tiny_sd),
    "a compiled U-Net": Situation(build=_after(_compiled), make=functools.partial(picture, steps=2)),
}

REFUSED = {
    ("fused_qkv", "a LoRA"): "fused_qkv: fuse LoRA adapters into the weights first",
    ("fused_qkv", "a LoRA that is loaded later"): "fused_qkv: .* LoRA",
    ("fused_qkv", "a LoRA that came and went"): "fused_qkv: .* LoRA",
    ("fused_qkv", "an IP-Adapter"): "fused_qkv: .*IP-Adapter",
    ("fused_qkv", "an IP-Adapter that is loaded later"): "fused_qkv: .*IP-Adapter",
    ("fused_qkv", "an IP-Adapter that came and went"): "fused_qkv: .*IP-Adapter",
    ("deepcache", "a compiled U-Net"): "deepcache: the U-Net is compiled already",
    ("sdpa_kernel", "a compiled U-Net"): "sdpa_kernel: a module is compiled already",
}
"""What may be refused, and how the sentence begins."""

NO_EFFECT = {
    ("torch_compile", "a compiled U-Net"): "no graph was made of forward of",
    ("deepcache", "a ControlNet"): "every step computed the whole U-Net: the U-Net was called with down_block",
    (
        "deepcache",
        "a hook that changes the last block",
    ): "every step computed the whole U-Net: a hook sits",
    ("deepcache", "FreeU"): "every step computed the whole U-Net: FreeU",
    ("guidance_cutoff", "no guidance"): "no step ran without guidance that would have had it",
    ("guidance_cutoff", "two equal pictures without guidance"): "no step ran without guidance",
}
"""Where took_effect says so, and the picture is the untouched one."""


def _parameters(known: Technique) -> dict[str, Any] | None:
    """The first combination that this machine does not refuse; of torch_compile the one that is traced in a moment."""
    if known.name == "dtype":
        return {"dtype": "float32"}  # from float64: a CPU takes ten times as long in 16 bits
    target = this_machine("cpu", known.packages)
    combinations = [p for p in known.parameters.combinations() if not known.why_not(target, {"main": TINY_FACTS}, p)]
    values = [p.model_dump() for p in combinations]
    if known.name == "torch_compile":
        values = [each for each in values if each["region"] == "repeated_blocks"]
    if known.name == "guidance_cutoff":
        values = values[-1:]
    if known.name == "sdpa_kernel":
        values = [each for each in values if "default" not in each.values()]
    return values[0] if values else None


TRIED = (
    *("dtype", "fused_qkv", "channels_last", "torchao_quantization", "deepcache", "torch_compile", "guidance_cutoff"),
    *("sdpa_kernel", "vae_slicing", "vae_tiling", "model_offload", "group_offload"),
)
"""Minutes for each would be too many: the other step caches have tests of their own."""
HERE = {name: values for name in TRIED if (values := _parameters(technique(name))) is not None}
COMPILED = ("deepcache", "torch_compile", "guidance_cutoff", "sdpa_kernel")
"""What is tried on a U-Net that is compiled already, which takes seconds: whatever wraps or replaces its forward()."""
WRAP = ("fused_qkv", "deepcache", "guidance_cutoff")
"""What changes what a call computes; the others change how, which no scheduler and hardly a hook can disturb."""
CASES = [
    pytest.param(name, situation, marks=[] if name in WRAP and "compiled" not in situation else pytest.mark.slow)
    for name in HERE
    for situation in SITUATIONS
    if "compiled" not in situation or name in COMPILED
]


@functools.cache
def _untouched(name: str) -> tuple[torch.Tensor, Any]:
    situation = SITUATIONS[name]
    pipeline = situation.build()
    situation.later(pipeline)
    made = situation.make(pipeline)
    return made, situation.seen(pipeline)


@functools.cache
def _usual(name: str) -> torch.Tensor:
    """What a technique makes where there is nothing special."""
    pipelines = {"main": small_sdxl()}
    _apply(name, pipelines)
    return picture(pipelines["main"])


def _apply(name: str, pipelines: dict[str, Any]) -> None:
    if name == "dtype":
        for module in torch_modules(pipelines["main"]).values():
            torch.nn.Module.to(module, torch.float64)
    technique(name).apply(pipelines, **HERE[name])


def test_what_cannot_be_tried_here_is_refused_in_a_sentence() -> None:
    others = [technique(name) for name in TRIED if name not in HERE]
    assert {known.name for known in others} <= {"model_offload", "group_offload", "torchao_quantization"}
    for known in others:
        target = this_machine("cpu", known.packages)
        said = {known.why_not(target, {"main": TINY_FACTS}, p) for p in known.parameters.combinations()}
        assert said == {"there is no GPU memory to save"} or "is not installed" in str(said)


@pytest.mark.parametrize(("name", "situation"), CASES)
def test_a_technique_is_right_or_refused(name: str, situation: str) -> None:
    known, values, here = technique(name), HERE[name], SITUATIONS[situation]
    expected, seen = _untouched(situation)
    pipelines = {"main": here.build()}
    try:
        _apply(name, pipelines)
        here.later(pipelines["main"])
        made = here.make(pipelines["main"])
    except (ValueError, RuntimeError) as error:
        if not re.match(REFUSED.get((name, situation), "nothing"), str(error)):
            raise
        return
    assert here.seen(pipelines["main"]) == seen
    assert made.isfinite().all()
    if known.axis is Axis.CACHING or situation == "nothing special":
        assert torch.equal(here.make(pipelines["main"]), made)
    reason = known.took_effect(pipelines, **values)
    if (name, situation) in NO_EFFECT:
        assert reason is not None
        assert reason.startswith(NO_EFFECT[name, situation])
        assert torch.equal(made, expected)
        return
    assert reason is None
    loss = known.loss_with(known.parameters(**values))
    if loss is Loss.BIT_IDENTICAL:
        assert torch.equal(made, expected)
    elif loss is Loss.REORDERED:
        assert relative_difference(made, expected) < CLOSE["cpu"]
    else:
        assert relative_difference(made, expected) < SAME_PICTURE
    if here.same:
        assert torch.equal(made, _usual(name))
    if here.moves:
        without, _ = _untouched("nothing special")
        assert relative_difference(made, _usual(name)) > relative_difference(expected, without) / 2


@pytest.mark.parametrize("name", HERE)
def test_a_batch_is_the_pictures_one_by_one(name: str) -> None:
    pipeline = small_sdxl()
    _apply(name, {"main": pipeline})
    both = picture(pipeline, batch=2)
    alone = torch.cat([picture(pipeline, batch=1, seed=seed) for seed in range(2)])
    assert relative_difference(both, alone) < CLOSE["cpu"]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in (*WRAP, "sdpa_kernel") else pytest.mark.slow) for name in HERE],
)
def test_two_threads_share_the_modules(name: str) -> None:
    """The same pictures as one after the other, or a refusal."""
    one = small_sdxl()
    two = sibling(one, EulerDiscreteScheduler.from_config(one.scheduler.config))
    _apply(name, {"main": one, "two": two})
    requests = {"a cat": one, "the red sea": two}
    alone = {prompt: picture(pipeline, prompt) for prompt, pipeline in requests.items()}
    together: dict[str, Any] = {}
    turns = threading.Barrier(2, timeout=250)

    def wait(pipeline: Any, step: int, timestep: Any, tensors: Any) -> Any:
        turns.wait()  # so that the steps of the two alternate
        return tensors

    def work(prompt: str) -> None:
        try:
            together[prompt] = picture(requests[prompt], prompt, callback_on_step_end=wait)
        except RuntimeError as error:
            together[prompt] = error
            turns.abort()

    threads = [threading.Thread(target=work, args=(prompt,)) for prompt in requests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for prompt, made in together.items():
        if isinstance(made, torch.Tensor):
            assert torch.equal(made, alone[prompt])
        elif not isinstance(made, threading.BrokenBarrierError):
            assert name == "sdpa_kernel"
            assert str(made).startswith("sdpa_kernel: two threads call the pipelines at once")
    if name != "sdpa_kernel":
        assert all(isinstance(made, torch.Tensor) for made in together.values())
