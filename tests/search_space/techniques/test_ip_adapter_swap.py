"""IP-Adapters come and go without new weights or graphs, and each request's picture is what it is alone."""

import copy
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline
from diffusers.models.attention_processor import AttnProcessor2_0
from paretune.objectives.measuring.graphs_made import Compilations, Made
from paretune.search_space import Configuration, Target, apply_source, describe_pipelines, technique, with_visits
from paretune.search_space._module_state import module_state
from paretune.testing import tiny_sdxl
from paretune.testing.tiny_sdxl import ip_adapter
from paretune.testing.tiny_variants import tiny_sd

NAMES = ("plain", "ann", "ben")
ADAPTERS = (*NAMES, "rose")
WAYS = ("once", "refined", "two", "wide")


class Product:
    """A product's own way with adapters: loads and unloads IP-Adapters as diffusers has it, and writes its LoRA, called
    rose, into the weights.
    """

    def __init__(self, configuration: dict[str, dict[str, Any]] | None = None) -> None:
        self.main = tiny_sdxl()
        self.refiner = StableDiffusionXLImg2ImgPipeline(**self.main.components)
        self.refiner.set_progress_bar_config(disable=True)
        self.files = {}
        for seed, name in enumerate(NAMES[1:]):
            torch.manual_seed(seed)
            self.files[name] = ip_adapter(self.main.unet)
        self.loaded = "plain"
        self.base = {
            name: weight.detach().clone()
            for name, weight in self.main.unet.named_parameters()
            if name.endswith("attn2.to_v.weight")
        }
        if configuration is not None:
            namespace: dict[str, Any] = {}
            exec(apply_source(Configuration.of(configuration)), namespace)
            namespace["apply"]({"main": self.main, "refiner": self.refiner})

    def use(self, name: str) -> None:
        if name != self.loaded:
            if self.loaded in self.files:
                self.main.unload_ip_adapter()
            if name in self.files:
                self.main.load_ip_adapter(self.files[name], subfolder="", weight_name="", image_encoder_folder=None)
                self.main.set_ip_adapter_scale(0.6 if name == "ann" else 0.9)
            if "rose" in (name, self.loaded):
                weights = dict(self.main.unet.named_parameters())
                for layer, weight in self.base.items():
                    weights[layer].data.copy_(-weight if name == "rose" else weight)
            self.loaded = name

    def picture(self, name: str, way: str = "once", *, steps: int = 2) -> torch.Tensor:
        self.use(name)
        return self.served(name, way, steps=steps)

    def served(self, name: str, way: str = "once", *, steps: int = 2, **more: Any) -> torch.Tensor:
        """With what is loaded."""
        batch, seed = 2 if way == "two" else 1, ADAPTERS.index(name)
        if name in self.files:
            more["ip_adapter_image_embeds"] = [torch.ones(2 * batch, 1, 8)]
        if way == "refined":
            more |= {"image": torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(seed)), "strength": 1.0}
        else:
            more |= {"height": 64, "width": 96 if way == "wide" else 64}
        made: torch.Tensor = (self.refiner if way == "refined" else self.main)(
            ["a cat"] * batch,
            num_inference_steps=steps,
            generator=[torch.Generator().manual_seed(seed + number) for number in range(batch)],
            output_type="pt",
            **more,
        ).images
        return made


@pytest.fixture(scope="module")
def alone() -> dict[str, torch.Tensor]:
    """Each request of a product of its own, which nothing was done to."""
    return {name: Product().picture(name) for name in NAMES}


@pytest.fixture(scope="module")
def unoptimised() -> dict[tuple[str, str], torch.Tensor]:
    """Every adapter in every way, one step each, of a product that nothing was done to and that nothing came before."""
    return {(name, way): Product().picture(name, way, steps=1) for name in ADAPTERS for way in WAYS}


@pytest.mark.parametrize("how", ["stash", "in_place"])
def test_pictures_after_fifty_random_swaps_equal_those_of_the_unoptimised_product_bit_for_bit(
    how: str, unoptimised: dict[tuple[str, str], torch.Tensor]
) -> None:
    product = Product({"ip_adapter_swap": {"how": how}})
    drawn, swaps = random.Random(3), 0
    assert len({hash(made.numpy().tobytes()) for made in unoptimised.values()}) == len(unoptimised)
    while swaps < 50:
        name, way = drawn.choice(ADAPTERS), drawn.choice(WAYS)
        swaps += name != product.loaded
        assert torch.equal(product.picture(name, way, steps=1), unoptimised[name, way]), (swaps, name, way)
    counts = product.main.unet.ip_adapter_swaps
    assert counts["loaded"] == 2, "each adapter is read once"
    assert counts["swapped"] > 10
    assert technique("ip_adapter_swap").took_effect({"main": product.main}, how=how) is None


def test_an_adapter_that_another_thread_changes_waits_for_the_picture_in_the_making() -> None:
    """And whoever holds the pipelines' turn keeps what was loaded until the picture is done."""
    product = Product({"ip_adapter_swap": {"how": "stash"}})
    expected = {name: product.picture(name) for name in ("ann", "ben")}
    made: dict[str, torch.Tensor] = {}
    changing = threading.Thread(target=lambda: made.update(ben=product.picture("ben")))

    def interrupted(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == 0:
            changing.start()
            changing.join(0.2)
        return tensors

    product.use("ann")
    made["ann"] = product.served("ann", callback_on_step_end=interrupted)
    changing.join(30)
    for name, picture_ in expected.items():
        assert torch.equal(made[name], picture_), name

    wrong: list[str] = []

    def serve(name: str) -> None:
        for _ in range(4):
            with product.refiner.turn:
                if not torch.equal(product.picture(name), expected[name]):
                    wrong.append(name)

    threads = [threading.Thread(target=serve, args=(name,)) for name in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not wrong
    assert type(product.main).turn is type(product.refiner).turn
    assert isinstance(product.refiner, StableDiffusionXLImg2ImgPipeline)


@pytest.mark.slow
def test_with_a_step_cache_too_each_request_equals_its_run_alone() -> None:
    cache = {"deepcache": {"interval": 2, "branch": 0, "full_percent": 0}}
    expected = {name: Product(cache).picture(name) for name in NAMES}
    product = Product({"ip_adapter_swap": {"how": "stash"}, **cache})
    for name in random.Random(4).choices(NAMES, k=8):
        assert torch.equal(product.picture(name), expected[name])


def test_recorded_code_never_runs_over_freed_or_stale_weights() -> None:
    """CUDA graphs are replayed only in a state of the module that equals the one in which they were recorded."""
    stash = Product({"ip_adapter_swap": {"how": "stash"}})
    look = module_state(stash.main.unet)
    first = {}
    for name in NAMES:
        stash.use(name)
        first[name] = look()
    assert first["plain"] != first["ann"] != first["ben"] != first["plain"]
    for name in ("ann", "plain", "ben", "ann"):
        stash.use(name)
        assert look() == first[name], f"{name}: the graphs that were recorded with these very weights are used again"

    in_place = Product({"ip_adapter_swap": {"how": "in_place"}})
    in_place.use("ann")
    look = module_state(in_place.main.unet)
    weight = next(p for p in in_place.main.unet.attn_processors.values() if hasattr(p, "to_v_ip")).to_v_ip[0].weight
    values = {}
    for name in ("ann", "ben", "plain", "ann"):
        in_place.use(name)
        # All but the scale, which is a number in the graph.
        values.setdefault(name, (look()[:5], weight.detach().clone()))
        assert look()[:5] == values["ann"][0], "weights stay where they are, so that graphs read the new ones"
        assert torch.equal(weight, values[name][1])
    assert not values["plain"][1].any()
    assert not torch.equal(values["ann"][1], values["ben"][1])

    untouched = Product()
    look = module_state(untouched.main.unet)
    untouched.use("ann")
    recorded, held = look(), dict(untouched.main.unet.attn_processors)
    untouched.use("ben")
    assert look() != recorded, "other processors: the recording is not replayed"
    untouched.use("ann")
    assert look() != recorded, "read anew, it lies elsewhere, whatever is still held of the first one"
    del held


def test_what_the_file_holds_now_is_loaded() -> None:
    product = Product({"ip_adapter_swap": {"how": "stash"}})
    before = product.picture("ann")
    product.use("plain")
    product.files["ann"]["ip_adapter"]["1.to_v_ip.weight"].mul_(-20)
    after = product.picture("ann")
    assert not torch.equal(before, after)
    assert product.main.unet.ip_adapter_swaps["loaded"] == 2


class HalfProcessor(AttnProcessor2_0):
    """A user's own."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Half of what attention gives."""
        return 0.5 * super().__call__(*args, **kwargs)


def unload_twice(product: Product) -> list[torch.Tensor]:
    """And once by a pipeline that has loaded nothing."""
    product.use("ann")
    product.use("plain")
    product.main.unload_ip_adapter()
    product.refiner.unload_ip_adapter()
    return [product.picture("plain"), product.picture("ben")]


def another_pipeline_loads(product: Product) -> list[torch.Tensor]:
    """One that is made afterwards loads by diffusers' own method, over an adapter and after one."""
    product.use("ann")
    made = []
    for last in ("ann", "plain"):
        product.use(last)
        later = StableDiffusionXLImg2ImgPipeline(**product.main.components)
        later.load_ip_adapter(product.files["ben"], subfolder="", weight_name="", image_encoder_folder=None)
        product.loaded = "ben"
        made += [product.picture(name) for name in ("ben", "plain", "ann", "plain")]
    return made


def processors_before(product: Product) -> list[torch.Tensor]:
    """A user sets processors before there is any adapter."""
    product.main.unet.set_attn_processor(HalfProcessor())
    return [product.picture(name) for name in ("plain", "ann", "plain", "ben", "plain", "ann")]


def processors_between(product: Product) -> list[torch.Tensor]:
    """A user sets processors between two adapters: those of self-attention stay."""
    product.picture("ann")
    product.use("plain")
    product.main.unet.set_attn_processor(HalfProcessor())
    return [product.picture(name) for name in ("plain", "ann", "plain")]


def in_inference_mode(product: Product) -> list[torch.Tensor]:
    """The first adapters are loaded in inference mode, a later one is not."""
    with torch.inference_mode():
        for name in ("ann", "plain", "ben", "plain"):
            product.use(name)
    return [product.picture(name) for name in ("ann", "plain", "ben")]


@pytest.mark.parametrize("how", ["stash", "in_place"])
@pytest.mark.parametrize(
    "way", [unload_twice, another_pipeline_loads, processors_before, processors_between, in_inference_mode]
)
def test_what_else_a_product_does_makes_the_pictures_of_the_unchanged_pipeline(
    way: Callable[[Product], list[torch.Tensor]], how: str
) -> None:
    product = Product({"ip_adapter_swap": {"how": how}})
    if way is processors_between and how == "in_place":
        with pytest.raises(RuntimeError, match="set them before the first adapter is loaded, or use how: stash"):
            way(product)
        # That sentence once, and the next adapter is loaded as diffusers has it.
        product.loaded = "plain"
        expected = Product()
        expected.main.unet.set_attn_processor(HalfProcessor())
        assert torch.equal(product.picture("ann"), expected.picture("ann"))
        assert torch.equal(product.picture("plain"), expected.picture("plain"))
        return
    for made, expected_ in zip(way(product), way(Product()), strict=True):
        assert torch.equal(made, expected_)


@pytest.mark.parametrize("how", ["stash", "in_place"])
def test_a_unet_that_takes_no_other_conditions(how: str) -> None:
    """Stable Diffusion 1.5 passes added_cond_kwargs only with an adapter."""

    def pictures(pipeline: Any) -> list[torch.Tensor]:
        torch.manual_seed(0)
        file, made = ip_adapter(pipeline.unet), []
        for embeds in ([torch.ones(2, 1, 8)], None, [torch.ones(2, 1, 8)], None):
            if embeds:
                pipeline.load_ip_adapter(file, subfolder="", weight_name="", image_encoder_folder=None)
            size: dict[str, Any] = {"height": 64, "width": 64, "num_inference_steps": 1, "output_type": "pt"}
            drawn = torch.Generator().manual_seed(0)
            made.append(pipeline("a cat", generator=drawn, ip_adapter_image_embeds=embeds, **size).images)
            if embeds:
                pipeline.unload_ip_adapter()
        return made

    pipeline = tiny_sd()
    technique("ip_adapter_swap").apply({"main": pipeline}, how=how)
    for made, expected in zip(pictures(pipeline), pictures(tiny_sd()), strict=True):
        assert torch.equal(made, expected)


def test_tensors_whose_changes_are_not_seen_are_refused() -> None:
    product = Product({"ip_adapter_swap": {"how": "stash"}})
    with torch.inference_mode():
        product.files["ann"]["ip_adapter"]["1.to_v_ip.weight"] = torch.ones(64, 64)
    with pytest.raises(RuntimeError, match="were made in inference mode"):
        product.use("ann")


def test_beside_attention_backend_processors_are_put_back_too() -> None:
    product = Product({"ip_adapter_swap": {"how": "in_place"}, "attention_backend": {"backend": "native"}})
    for name in ("ann", "plain", "ben", "plain"):
        product.use(name)
    assert product.main.unet.ip_adapter_swaps["unloaded"] == 2


def test_it_is_for_workloads_in_which_ip_adapters_come_and_go() -> None:
    product, known = Product(), technique("ip_adapter_swap")
    cpu, described = Target(device="cpu", name="cpu"), describe_pipelines({"main": product.main}, [])
    assert known.why_not(cpu, described, known.parameters()) == "no request loads or unloads an IP-Adapter"
    visit = {
        "entry": "main", "batch": 1, "width_px": 64, "height_px": 64, "steps": 2, "guided": True, "adapters": [],
    }  # fmt: skip
    request = type("R", (), {"name": "a", "batch": 1, "width_px": 64, "height_px": 64, "guidance": 5, "adapters": (),
                             "pipeline": "main"})()  # fmt: skip
    seen = {"a": [visit, {**visit, "adapters": ["ip-adapter"]}]}
    facts = with_visits(described, seen, [request])
    assert known.why_not(cpu, facts, known.parameters()) is None


@pytest.mark.slow
@pytest.mark.parametrize("how", ["stash", "in_place"])
def test_once_every_adapter_was_seen_nothing_is_compiled_again(
    how: str, alone: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    compile = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda function, **options: compile(function, **{"dynamic": None, "backend": "eager"})
    )
    product = Product({"ip_adapter_swap": {"how": how}, "torch_compile": {}})
    for name in ("plain", "ann", "plain", "ben", "ann"):
        product.picture(name)
    with Compilations() as compilations:
        for name in random.Random(5).choices(NAMES, k=8):
            assert torch.allclose(product.picture(name), alone[name], atol=1e-5)
        assert compilations.made() == Made(0, 0)
    torch._dynamo.reset()


@pytest.mark.parametrize("how", ["stash", "in_place"])
def test_a_copy_of_the_pipeline_is_refused(how: str) -> None:
    pipeline = tiny_sdxl()
    technique("ip_adapter_swap").apply({"main": pipeline}, how=how)
    copied = copy.deepcopy(pipeline)
    with pytest.raises(
        RuntimeError, match=r"ip_adapter_swap: this pipeline has another U-Net than apply\(\) was given"
    ):
        copied.load_ip_adapter(ip_adapter(copied.unet), subfolder="", weight_name="", image_encoder_folder=None)
