"""Every technique in every situation in which users' pipelines are: right, or refused in a sentence.

Right is a picture like the one that the untouched pipeline makes in the same situation, as near as the technique's loss
allows, the same again the second time, and with what the situation is about still at work. A technique is tried on the
first of the three tiny pipelines that it does not refuse: a U-Net, a transformer that guides by a doubled batch, and
Flux.
"""

import copy
import functools
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FluxImg2ImgPipeline,
    HeunDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    StableDiffusion3Img2ImgPipeline,
    UNet2DConditionModel,
)
from paretune.search_space import (
    TECHNIQUES,
    Axis,
    Loss,
    PipelineFacts,
    Role,
    Technique,
    Trait,
    describe_pipelines,
    technique,
    torch_modules,
)
from paretune.search_space._calls import wrap_forward
from paretune.search_space._hook_cache import hook_cache
from paretune.testing import (
    CLOSE,
    SAME_PICTURE,
    attach_lora,
    detach_lora,
    image_to_image,
    inpainting,
    ip_adapter,
    relative_difference,
    sibling,
    this_machine,
    tiny_flux,
    tiny_sd,
    tiny_sd3,
    tiny_sdxl,
    transformer_picture,
    with_controlnet,
)
from paretune.testing import picture as unet_picture


def picture(pipeline: Any, prompt: str = "a cat", *, batch: int = 1, steps: int = 3, **request: Any) -> torch.Tensor:
    """One picture in three steps: there are hundreds of them."""
    make = unet_picture if hasattr(pipeline, "unet") else transformer_picture
    return make(pipeline, prompt, batch=batch, steps=steps, **{**NEGATIVE, **request})


NEGATIVE = {"negative_prompt": "red"}
"""In all of them: one technique is about it."""


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


HOMES: dict[str, Callable[[], Any]] = {"a U-Net": small_sdxl, "SD3": tiny_sd3, "Flux": tiny_flux}


def _denoiser(pipeline: Any) -> Any:
    return getattr(pipeline, "unet", None) or pipeline.transformer


IMAGE = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(9))
EMBEDS = [torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(4))]


@dataclass(frozen=True, kw_only=True)
class Situation:
    """One state of a pipeline and one request.

    before: what is done to a new pipeline before anything is applied; it may return another one. later: what happens
    between apply() and the request. make(pipeline, steps): the picture. seen: what else must be as it is without the
    technique, after a picture. same: whether a technique makes exactly the picture that it makes where there is nothing
    special; moves: whether it has to be another one by at least half of what the situation changes without the
    technique. homes: the pipelines that there is such a situation of.
    """

    before: Callable[[Any], Any] = lambda pipeline: None
    make: Callable[[Any, int], torch.Tensor] = lambda pipeline, steps: picture(pipeline, steps=steps)
    later: Callable[[Any], None] = lambda pipeline: None
    seen: Callable[[Any], Any] = lambda pipeline: None
    same: bool = False
    moves: bool = False
    homes: tuple[str, ...] = tuple(HOMES)


def _count_calls(pipeline: Any) -> None:
    """As profilers do, and hooks that look at the noise."""
    pipeline.calls = calls = []
    _denoiser(pipeline).register_forward_pre_hook(lambda module, args: calls.append("before"))
    _denoiser(pipeline).register_forward_hook(lambda module, args, output: calls.append(("after", len(output[0]))))


def _change_the_last_block(pipeline: Any) -> None:
    """As FreeU and its kind do, by a hook."""
    pipeline.unet.up_blocks[-1].register_forward_hook(lambda module, args, output: output * 1.5)


def _offloaded_by_accelerate(pipeline: Any) -> None:
    """accelerate keeps the U-Net's forward() while its hook is there, and pipelines take hooks off and on again."""
    from accelerate.hooks import ModelHook, add_hook_to_module

    add_hook_to_module(_denoiser(pipeline), ModelHook())


def _hook_taken_off(pipeline: Any) -> None:
    from accelerate.hooks import remove_hook_from_module

    picture(pipeline)
    remove_hook_from_module(_denoiser(pipeline))


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
    attach_lora(_denoiser(pipeline))
    picture(pipeline)
    detach_lora(_denoiser(pipeline))


def _scheduler(scheduler: Any, **options: Any) -> Callable[[Any], None]:
    def change(pipeline: Any) -> None:
        pipeline.scheduler = scheduler.from_config(EulerDiscreteScheduler().config, **options)

    return change


def _flow(scheduler: Any, **options: Any) -> Callable[[Any], None]:
    def change(pipeline: Any) -> None:
        pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config, **options)

    return change


def _compiled(pipeline: Any) -> None:
    """A smaller U-Net, because tracing takes a while."""
    if hasattr(pipeline, "transformer"):
        pipeline.transformer = torch.compile(pipeline.transformer)
        return
    unet = _unet(
        pipeline,
        block_out_channels=(32,),
        down_block_types=("CrossAttnDownBlock2D",),
        mid_block_type=None,
        up_block_types=("CrossAttnUpBlock2D",),
        attention_head_dim=2,
    )
    pipeline.unet = torch.compile(unet)


def _from_picture(pipeline: Any) -> Any:
    if hasattr(pipeline, "unet"):
        return image_to_image(pipeline)
    kind: Any = FluxImg2ImgPipeline if "Flux" in type(pipeline).__name__ else StableDiffusion3Img2ImgPipeline
    made = kind(**pipeline.components)
    made.set_progress_bar_config(disable=True)
    return made


def _with_callback(pipeline: Any, steps: int) -> torch.Tensor:
    pipeline.steps = []

    def note(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        pipeline.steps.append((step, float(timestep), tensors["latents"].shape))
        return tensors

    return picture(pipeline, steps=steps, callback_on_step_end=note)


def _long_prompt(pipeline: Any, steps: int) -> torch.Tensor:
    """Two chunks of 77 tokens, as prompt weighting gives them."""
    first, negative, pooled, negative_pooled = pipeline.encode_prompt("a cat", device=torch.device("cpu"))
    second, other_negative, *_ = pipeline.encode_prompt("the red sea", device=torch.device("cpu"))
    return picture(
        pipeline,
        steps=steps,
        prompt=None,
        negative_prompt=None,
        prompt_embeds=torch.cat([first, second], dim=1),
        negative_prompt_embeds=torch.cat([negative, other_negative], dim=1),
        pooled_prompt_embeds=pooled,
        negative_pooled_prompt_embeds=negative_pooled,
    )


def _pictures(pipeline: Any, steps: int, **request: Any) -> torch.Tensor:
    options = {
        "prompt": "a cat",
        **NEGATIVE,
        "num_inference_steps": steps,
        "guidance_scale": 5.0,
        "height": 64,
        "width": 64,
        "generator": torch.Generator().manual_seed(5),
        "output_type": "pt",
    }
    options |= request
    if hasattr(pipeline, "transformer"):
        options |= {"max_sequence_length": 77}
    made: torch.Tensor = pipeline(**{name: value for name, value in options.items() if value is not None}).images
    return made.float()


def _request(**request: Any) -> Callable[[Any, int], torch.Tensor]:
    return lambda pipeline, steps: _pictures(pipeline, steps, **request)


def _picture(**request: Any) -> Callable[[Any, int], torch.Tensor]:
    return lambda pipeline, steps: picture(pipeline, steps=steps, **request)


def _from_image(pipeline: Any, steps: int) -> torch.Tensor:
    # One step more, of which strength leaves the first out.
    size = {"height": None, "width": None} if hasattr(pipeline, "unet") else {}
    return _pictures(pipeline, steps + 1, image=IMAGE, strength=0.9, **size)


U_NET: dict[str, Any] = {"homes": ("a U-Net",)}
TRANSFORMERS: dict[str, Any] = {"homes": ("SD3", "Flux")}
SITUATIONS: dict[str, Situation] = {
    "nothing special": Situation(),
    "a hook on the denoiser": Situation(before=_count_calls, seen=lambda pipeline: list(pipeline.calls), same=True),
    "a hook that changes the last block": Situation(before=_change_the_last_block, **U_NET),
    "an offload hook of accelerate": Situation(before=_offloaded_by_accelerate, same=True),
    "an offload hook that is taken off later": Situation(
        before=_offloaded_by_accelerate, later=_hook_taken_off, same=True
    ),
    "FreeU": Situation(before=lambda pipeline: pipeline.enable_freeu(s1=0.6, s2=0.4, b1=1.3, b2=1.5), **U_NET),
    "a LoRA": Situation(before=lambda pipeline: attach_lora(_denoiser(pipeline)), moves=True),
    "a LoRA that is loaded later": Situation(later=lambda pipeline: attach_lora(_denoiser(pipeline)), moves=True),
    "a LoRA that came and went": Situation(later=_lora_comes_and_goes, same=True),
    "an IP-Adapter": Situation(
        before=_load_ip_adapter, make=_picture(ip_adapter_image_embeds=EMBEDS), moves=True, **U_NET
    ),
    "an IP-Adapter that is loaded later": Situation(
        later=_load_ip_adapter, make=_picture(ip_adapter_image_embeds=EMBEDS), moves=True, **U_NET
    ),
    "an IP-Adapter that came and went": Situation(later=_ip_adapter_comes_and_goes, same=True, **U_NET),
    "EDM": Situation(
        before=_scheduler(
            EDMEulerScheduler, sigma_min=0.002, sigma_max=80.0, sigma_data=0.5, prediction_type="epsilon"
        ),
        **U_NET,
    ),
    "a scheduler of second order": Situation(before=_scheduler(HeunDiscreteScheduler), **U_NET),
    "a scheduler with a step twice": Situation(before=_scheduler(PNDMScheduler, skip_prk_steps=True), **U_NET),
    "a multistep scheduler": Situation(before=_scheduler(DPMSolverMultistepScheduler), **U_NET),
    "LCM": Situation(before=_scheduler(LCMScheduler), **U_NET),
    "a flow of second order": Situation(before=_flow(FlowMatchHeunDiscreteScheduler), homes=("SD3",)),
    "a flow that is shifted": Situation(before=_flow(FlowMatchEulerDiscreteScheduler, shift=3.0), **TRANSFORMERS),
    "no guidance": Situation(make=_picture(guidance=1.0)),
    "two prompts": Situation(make=_request(prompt=["a cat", "the red sea"])),
    "two pictures of a prompt": Situation(make=_request(num_images_per_prompt=2)),
    "two equal pictures without guidance": Situation(
        make=lambda pipeline, steps: _pictures(
            pipeline,
            steps,
            prompt=["a cat", "the red sea"],
            guidance_scale=1.0,
            generator=[torch.Generator().manual_seed(5) for _ in range(2)],
        )
    ),
    "image to image": Situation(before=_from_picture, make=_from_image),
    "inpainting": Situation(
        before=inpainting,
        make=_request(image=IMAGE, mask_image=(IMAGE[:, :1] > 0.5).float(), strength=0.9),
        **U_NET,
    ),
    "a ControlNet": Situation(before=with_controlnet, make=_request(image=IMAGE), **U_NET),
    "a callback": Situation(make=_with_callback, seen=lambda pipeline: pipeline.steps, same=True),
    "a long prompt": Situation(make=_long_prompt, **U_NET),
    "an odd size": Situation(make=_request(height=72, width=88)),
    "Stable Diffusion 1.5": Situation(before=lambda pipeline: tiny_sd(), **U_NET),
    "a compiled denoiser": Situation(before=_compiled),
}

REFUSED = {
    ("fused_qkv", "a LoRA"): "fused_qkv: fuse LoRA adapters into the weights first",
    ("fused_qkv", "a LoRA that is loaded later"): "fused_qkv: .* LoRA",
    ("fused_qkv", "a LoRA that came and went"): "fused_qkv: .* LoRA",
    ("fused_qkv", "an IP-Adapter"): "fused_qkv: .*IP-Adapter",
    ("fused_qkv", "an IP-Adapter that is loaded later"): "fused_qkv: .*IP-Adapter",
    ("fused_qkv", "an IP-Adapter that came and went"): "fused_qkv: .*IP-Adapter",
    ("deepcache", "a compiled denoiser"): "deepcache: the U-Net is compiled already",
    ("sdpa_kernel", "a compiled denoiser"): "sdpa_kernel: a module is compiled already",
    ("first_block_cache", "a compiled denoiser"): "first_block_cache: .*compiled already",
    ("forecast_cache", "a compiled denoiser"): "forecast_cache: .*compiled already",
    ("faster_cache", "an offload hook of accelerate"): "faster_cache: accelerate's offload hook",
    ("faster_cache", "an offload hook that is taken off later"): "faster_cache: accelerate's offload hook",
    ("layerwise_casting", "an IP-Adapter"): "layerwise_casting: unload the IP-Adapter first",
    **{
        (name, "a compiled denoiser"): f"{name}: the denoiser is compiled already"
        for name in (
            "pyramid_attention_broadcast",
            "transformer_first_block_cache",
            "taylorseer_cache",
            "mag_cache",
            "faster_cache",
        )
    },
}
"""What may be refused, and how the sentence begins."""

NO_EFFECT = {
    ("torch_compile", "a compiled denoiser"): "no graph was made of forward of",
    ("deepcache", "a ControlNet"): "every step computed the whole U-Net: the U-Net was called with down_block",
    (
        "deepcache",
        "a hook that changes the last block",
    ): "every step computed the whole U-Net: a hook sits",
    ("deepcache", "FreeU"): "every step computed the whole U-Net: FreeU",
    ("first_block_cache", "a ControlNet"): "every step computed the whole U-Net: the U-Net was called with down_block",
    (
        "first_block_cache",
        "a hook that changes the last block",
    ): "every step computed the whole U-Net: a hook sits",
    ("first_block_cache", "FreeU"): "every step computed the whole U-Net: FreeU",
    ("guidance_interval", "no guidance"): "no step ran without guidance that would have had it",
    ("guidance_interval", "two equal pictures without guidance"): "no step ran without guidance",
    ("prompt_embedding_cache", "no guidance"): "no negative prompt came twice",
    ("prompt_embedding_cache", "a long prompt"): "no negative prompt came twice",
    ("guidance_cutoff", "no guidance"): "no step ran without guidance that would have had it",
    ("guidance_cutoff", "two equal pictures without guidance"): "no step ran without guidance",
}
"""Where took_effect says so, and the picture is the untouched one."""

CHOSEN: dict[str, dict[str, Any]] = {
    # From float64: a CPU takes ten times as long in 16 bits.
    "dtype": {"dtype": "float32"},
    "vae_dtype": {"dtype": "float32"},
    "torch_compile": {"region": "repeated_blocks"},
    "guidance_cutoff": {"guided_percent": 90},
    "guidance_interval": {"from_percent": 10, "to_percent": 100},
    "sdpa_kernel": {"unet": "math", "vae": "math"},
    "first_block_cache": {"threshold_permille": 400, "branch": 1},
    "forecast_cache": {"interval": 2, "order": 1, "forecast": "output"},
    "pyramid_attention_broadcast": {"self_interval": 2, "cross_interval": 1, "first_percent": 10},
    "taylorseer_cache": {"interval": 2, "order": 1, "first_steps": 3},
    "mag_cache": {"threshold_permille": 240, "first_percent": 10},
    "transformer_first_block_cache": {"threshold_permille": 200},
    "faster_cache": {"attention_interval": 2, "unprompted_interval": 2, "first_percent": 20},
}
"""Parameters that do most in a few steps, or cost least; of the others, the first that are not refused."""
FROM_FLOAT64 = ("dtype", "vae_dtype")
DECIDES_TOGETHER = ("transformer_first_block_cache", "first_block_cache", "cache_dit")
"""What looks at the pictures of a batch to decide for all of them: alone, each may have more or fewer steps cached."""
STEPS = {
    "first_block_cache": 5,
    "guidance_interval": 5,
    "forecast_cache": 5,
    "taylorseer_cache": 5,
    "mag_cache": 6,
    "faster_cache": 6,
    "transformer_first_block_cache": 6,
}
"""Of a picture, where three are too few for a technique to do anything."""


def _concerns(known: Technique, situation: str) -> bool:
    """Whether a technique meets what a situation is about."""
    if "compiled" in situation:
        return wrap_forward in known.helpers or known.name == "torch_compile"
    of_denoiser = Role.DENOISER in known.roles_with(known.parameters()) or known.axis is Axis.SAMPLING
    return of_denoiser or situation in OTHER_ROLES


OTHER_ROLES = (
    *("nothing special", "an IP-Adapter", "no guidance", "two prompts", "two pictures of a prompt", "image to image"),
    *("inpainting", "a callback", "a long prompt", "an odd size", "Stable Diffusion 1.5"),
)
"""What a technique of the VAE or the text encoders can meet."""


def _build(name: str, home: str, situation: Situation) -> Any:
    """A new pipeline in that situation, for that technique to be applied to."""
    pipeline = HOMES[home]()
    pipeline = situation.before(pipeline) or pipeline
    if name in FROM_FLOAT64:
        for module in [pipeline.vae] if name == "vae_dtype" else torch_modules(pipeline).values():
            torch.nn.Module.to(module, torch.float64)
    return pipeline


@functools.cache
def _facts(home: str, name: str) -> dict[str, PipelineFacts]:
    request = SimpleNamespace(pipeline="main", batch=2, width_px=64, height_px=64, guidance=5.0, adapters=())
    return describe_pipelines({"main": _build(name, home, Situation())}, [request])


def _try_out(known: Technique) -> tuple[str, dict[str, Any]] | str:
    """(the pipeline, the parameters) that a technique is tried with here, or why it is refused on all of them."""
    target, said = this_machine("cpu", known.all_packages()), ""
    for home in HOMES:
        facts = _facts(home, known.name if known.name in FROM_FLOAT64 else "")
        for parameters in known.parameters.combinations():
            values = parameters.model_dump()
            if CHOSEN.get(known.name, {}).items() <= values.items():
                reason = known.why_not(target, facts, parameters)
                if reason is None:
                    return home, values
                said = said or reason
    return said


FOUND = {known.name: _try_out(known) for known in TECHNIQUES}
HERE = {name: found for name, found in FOUND.items() if not isinstance(found, str)}
WRAP = ("fused_qkv", "deepcache", "guidance_cutoff")
"""What changes what a call computes, each in its own way: all situations, every time. Of every other technique one, and
all where the slow tests run."""


def _cases() -> Iterator[Any]:
    for number, (name, (home, _)) in enumerate(HERE.items()):
        concerning = [
            situation
            for situation, each in SITUATIONS.items()
            if home in each.homes and _concerns(technique(name), situation)
        ]
        quick = [situation for situation in concerning if "compiled" not in situation]
        # Not the same for all, so that every situation is met.
        sample = quick if name in WRAP else [quick[5 * number % len(quick)]]
        for situation in concerning:
            slow = situation not in sample or name in COMPILING
            yield pytest.param(name, situation, marks=[pytest.mark.slow] if slow else [])


COMPILING = [name for name in HERE if technique(name).axis is Axis.COMPILER]
"""What takes seconds wherever it is applied."""


@functools.cache
def _untouched(home: str, name: str, steps: int) -> tuple[torch.Tensor, Any]:
    situation = SITUATIONS[name]
    pipeline = _build("", home, situation)
    situation.later(pipeline)
    made = situation.make(pipeline, steps)
    return made, situation.seen(pipeline)


@functools.cache
def _usual(name: str) -> torch.Tensor:
    """What a technique makes where there is nothing special."""
    home, values = HERE[name]
    pipelines = {"main": _build(name, home, Situation())}
    technique(name).apply(pipelines, **values)
    return picture(pipelines["main"], steps=_steps(name))


def _steps(name: str) -> int:
    return STEPS.get(name, 3)


def test_what_cannot_be_tried_here_is_refused_in_a_sentence() -> None:
    """For want of a GPU, a package, a module beside the pipelines or requests with adapters, and for nothing else."""
    refused = {name: said for name, said in FOUND.items() if isinstance(said, str)}
    wanting = ("CUDA", "GPU", "is not installed", "no module beside the pipelines", "-Adapter", "LoRA")
    assert all(any(word in said for word in wanting) for said in refused.values()), refused
    assert len(HERE) >= 25
    assert {home for home, _ in HERE.values()} == set(HOMES)


@pytest.mark.parametrize(("name", "situation"), list(_cases()))
def test_a_technique_is_right_or_refused(name: str, situation: str) -> None:
    known, (home, values), here, steps = technique(name), HERE[name], SITUATIONS[situation], _steps(name)
    expected, seen = _untouched(home, situation, steps)
    try:
        pipelines = {"main": _build(name, home, here)}
        known.apply(pipelines, **values)
        here.later(pipelines["main"])
        made = here.make(pipelines["main"], steps)
    except (ValueError, RuntimeError) as error:
        if not re.match(REFUSED.get((name, situation), "nothing"), str(error)):
            raise
        return
    loss = known.loss_with(known.parameters(**values))
    if loss is not Loss.BY_DESIGN:
        assert here.seen(pipelines["main"]) == seen
    assert made.isfinite().all()
    if known.axis is Axis.CACHING or situation == "nothing special":
        assert torch.equal(here.make(pipelines["main"], steps), made)
    reason = known.took_effect(pipelines, **values)
    if (name, situation) in NO_EFFECT:
        assert reason is not None
        assert reason.startswith(NO_EFFECT[name, situation])
        assert torch.equal(made, expected)
        return
    assert reason is None
    usual_loss = relative_difference(_usual(name), _untouched(home, "nothing special", steps)[0])
    if loss is Loss.BIT_IDENTICAL:
        assert torch.equal(made, expected)
    elif loss is Loss.REORDERED:
        assert relative_difference(made, expected) < CLOSE["cpu"]
    elif loss is Loss.APPROXIMATE:
        assert relative_difference(made, expected) < max(SAME_PICTURE, 1.5 * usual_loss)
    if here.same:
        assert torch.equal(made, _usual(name))
    if here.moves:
        without, _ = _untouched(home, "nothing special", steps)
        # Guidance is 5, and makes so much more of whatever is in the prompted half.
        least = 5 if Trait.GUIDES_LESS in known.traits_with(known.parameters(**values)) else 2
        assert relative_difference(made, _usual(name)) > relative_difference(expected, without) / least


@pytest.mark.slow
@pytest.mark.parametrize("name", HERE)
def test_a_batch_is_the_pictures_one_by_one(name: str) -> None:
    home, values = HERE[name]
    pipeline = _build(name, home, Situation())
    technique(name).apply({"main": pipeline}, **values)
    steps = _steps(name)
    both = picture(pipeline, batch=2, steps=steps)
    alone = torch.cat([picture(pipeline, batch=1, seed=seed, steps=steps) for seed in range(2)])
    assert relative_difference(both, alone) < (SAME_PICTURE / 2 if name in DECIDES_TOGETHER else CLOSE["cpu"])


ONE_MEMORY = [name for name in HERE if hook_cache in technique(name).helpers]
"""diffusers' cache hooks begin anew where the steps of two pictures alternate: then nothing is left out."""
REFUSES_THREADS = {
    **dict.fromkeys((*ONE_MEMORY, "sdpa_kernel", "layerwise_casting"), "refused"),
    # torch's compiler serves one thread at a time, and says so in its own words.
    **dict.fromkeys(COMPILING, ""),
}
"""What may refuse calls from two threads at once."""


QUICK_THREADS = {*WRAP, *REFUSES_THREADS} - {*COMPILING}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK_THREADS else pytest.mark.slow) for n in HERE])
def test_two_threads_share_the_modules(name: str) -> None:
    """The same pictures as one after the other, or a refusal."""
    home, values = HERE[name]
    one = _build(name, home, Situation())
    two = sibling(one, type(one.scheduler).from_config(one.scheduler.config))
    # Tokenizers are not made for two threads, whatever is applied.
    two.tokenizer, two.tokenizer_2 = copy.deepcopy((two.tokenizer, two.tokenizer_2))
    technique(name).apply({"main": one, "two": two}, **values)
    requests = {"a cat": one, "the red sea": two}
    alone = {prompt: picture(pipeline, prompt, steps=_steps(name)) for prompt, pipeline in requests.items()}
    together: dict[str, Any] = {}
    plain = _build(name, home, Situation())
    untouched = {prompt: picture(plain, prompt, steps=_steps(name)) for prompt in requests if name in ONE_MEMORY}
    turns = threading.Barrier(2, timeout=60)

    def wait(pipeline: Any, step: int, timestep: Any, tensors: Any) -> Any:
        turns.wait()  # so that the steps of the two alternate
        return tensors

    def work(prompt: str) -> None:
        try:
            together[prompt] = picture(requests[prompt], prompt, steps=_steps(name), callback_on_step_end=wait)
        except Exception as error:
            together[prompt] = error
            turns.abort()

    threads = [threading.Thread(target=work, args=(prompt,)) for prompt in requests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if REFUSES_THREADS.get(name) is None:
        assert not [each for each in together.values() if isinstance(each, Exception)]
    for prompt, made in together.items():
        if isinstance(made, torch.Tensor):
            assert torch.equal(made, alone[prompt]) or (name in ONE_MEMORY and torch.equal(made, untouched[prompt]))
        elif not isinstance(made, threading.BrokenBarrierError):
            assert re.match(f"{name}: two threads call|{REFUSES_THREADS[name]}", str(made))
