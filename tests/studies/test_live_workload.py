"""PYTEST_DONT_REWRITE (its functions are compared with their source).

A workload around live pipelines and a function: written with the source it needs, or refused with the reason."""

import enum
import json
import linecache
import math
import subprocess
import sys
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import paretune
import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    HeunDiscreteScheduler,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UniPCMultistepScheduler,
)
from diffusers.models.attention_processor import AttnProcessor2_0
from paretune.studies import UserError, Workload, live_workload, parse_study
from paretune.testing import attach_lora, detach_lora, fuse_lora, ip_adapter, tiny_sdxl
from tokenizers import normalizers

SIDE, NAMES, HALF = 64, {"ann": (1, 2.5), "ben": [Path("x")]}, torch.float16
LOCK = object()
Level = enum.IntEnum("Level", ["LOW", "HIGH"])
HIGH, SCALE = Level.HIGH, numpy.float64(5.0)


class Upscaler(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 12, 3, padding=1)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pixel_shuffle(self.layer(pictures), 2).sigmoid()


def generators(request: Any) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(request.seed + index) for index in range(request.batch)]


def run(pipelines: Any, request: Any) -> torch.Tensor:
    """Uses functions, constants, modules and imported names of its own file."""
    assert math.floor(NAMES["ann"][1]) == 2
    assert HALF is torch.float16
    call = {"num_inference_steps": request.steps, "generator": generators(request), "output_type": "pt"}
    draft = pipelines["main"](request.prompt, width=SIDE, height=SIDE, **call).images
    refined = pipelines["refiner"](request.prompt, image=draft, strength=0.5, **call).images
    return pipelines["upscaler"](refined)


def uses_a_lock(pipelines: Any, request: Any) -> Any:
    return LOCK


def uses_an_enum(pipelines: Any, request: Any) -> Any:
    return HIGH


def uses_a_number_of_numpy(pipelines: Any, request: Any) -> Any:
    return SCALE


def uses_a_name_that_is_nowhere(pipelines: Any, request: Any) -> Any:
    return nowhere  # type: ignore[name-defined]  # noqa: F821


REQUESTS = [{"name": "cat", "prompt": "a cat", "width_px": SIDE, "height_px": SIDE, "steps": 2, "seed": 3}]


def pipelines() -> dict[str, Any]:
    main = tiny_sdxl()
    refiner = StableDiffusionXLImg2ImgPipeline(**main.components)
    for each in (main, refiner):
        each.set_progress_bar_config(disable=True)
    torch.manual_seed(0)
    return {"main": main, "refiner": refiner, "upscaler": Upscaler(), "unet": main.unet}


def test_the_written_workload_makes_the_pictures_of_the_live_one_and_shares_what_it_shared(tmp_path: Path) -> None:
    live = pipelines()
    request = SimpleNamespace(**REQUESTS[0], batch=1)
    with torch.no_grad():
        expected = run(live, request)
    written = live_workload(live, run, REQUESTS, folder=tmp_path / "written")
    study = parse_study(
        {"schema": 1, "name": "live", "workload": written.to_dict(), "device": "cpu"}, "study", tmp_path
    )
    loaded = Workload(study.workload_description())
    again = loaded.load("cpu")
    assert again["refiner"].unet is again["main"].unet is again["unet"]
    assert not list((tmp_path / "written" / "refiner").rglob("*.safetensors"))
    with torch.no_grad():
        assert torch.equal(loaded.run(again, loaded.requests[0]), expected)
    assert "cat" in written._repr_html_()


def session(monkeypatch: pytest.MonkeyPatch, **files: str) -> dict[str, Any]:
    """{name: what the file of that name defines}, as if a notebook had imported each from the ones before."""
    modules = {}
    for name, text in files.items():
        modules[name] = types.ModuleType(name)
        monkeypatch.setitem(sys.modules, name, modules[name])
        linecache.cache[f"<{name}>"] = (len(text), None, text.splitlines(keepends=True), f"<{name}>")
        exec(compile(text, f"<{name}>", "exec"), vars(modules[name]))
    return {name: SimpleNamespace(**vars(module)) for name, module in modules.items()}


def served(written: Any) -> Any:
    """What the written run() gives for the written pipelines."""
    namespace: dict[str, Any] = {"__file__": str(written.file)}
    exec(written.file.read_text(), namespace)
    return namespace["run"](namespace["load"]("cpu"), None)


def test_a_class_of_a_notebooks_cell_is_found_by_its_methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = """import torch
FACTOR = 2

class Larger(torch.nn.Module):
    def forward(self, pictures):
        return pictures * FACTOR

def serve(pipelines, request):
    return pipelines["larger"](torch.ones(1, 3, 16, 16))
"""
    notebook = session(monkeypatch, __main__=cell)["__main__"]
    written = live_workload({"larger": notebook.Larger()}, notebook.serve, REQUESTS, folder=tmp_path)
    assert served(written).unique().tolist() == [2.0]


ONE_FILE = """
SIZE = 5
def finish(x): return x * SIZE
def maker(k):
    def made(x): return x * k
    return made
double = maker(2)
def round(x): return 0
"""


@pytest.mark.parametrize(
    ("another", "said"),
    [
        ("from one import finish\nSIZE = 2\ndef serve(p, r): return SIZE, finish(1)", "called SIZE, one that serve"),
        ("from one import finish\nSIZE = 5\ndef serve(p, r): return SIZE + finish(1)", None),
        (
            "import one\nother = one.finish\ndef finish(x): return other(x)\ndef serve(p, r): return finish(1)",
            "two different things are called finish, one that serve uses and one that finish uses as other: .* rename",
        ),
        ("from one import finish as end\ndef serve(p, r): return end(1)\n", None),
        (
            "from one import double, maker\nthrice = maker(3)\ndef serve(p, r): return double(1), thrice(1)",
            "called made",
        ),
        ("from one import double\ndef serve(p, r): return double(1)", None),
        ("from one import round as one_round\ndef serve(p, r): return round(1.2), one_round(1.2)", "called round"),
        ("def load(): return 1\ndef serve(p, r): return load()", "called load, one that paretune has and one that"),
    ],
)
def test_names_of_several_files_stand_for_one_thing_each_or_are_refused(
    another: str, said: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve = session(monkeypatch, one=ONE_FILE, another=another)["another"].serve
    if said is None:
        assert served(live_workload({"up": Upscaler()}, serve, REQUESTS, folder=tmp_path)) == serve(None, None)
    else:
        with pytest.raises(UserError, match=said):
            live_workload({"up": Upscaler()}, serve, REQUESTS, folder=tmp_path)


DECORATORS = """
import functools, torch
def tenfold(function):
    import functools as f
    @f.wraps(function)
    def wrapped(*arguments): return function(*arguments) * 10
    return wrapped
def bare(function):
    def wrapped(*arguments): return function(*arguments) * 10
    return wrapped
def noted(function):
    function.noted = True
    return function
def plain(x): return x
"""


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("@tenfold\ndef more(x): return x + 1", None),
        ("@torch.no_grad()\n@tenfold\ndef more(x): return x + 1", None),
        ("@noted\ndef more(x): return x + 1", None),
        (
            "more = tenfold(plain)",
            "serve uses more, around which a decorator has put something that is not in its sour",
        ),
        ("@bare\ndef more(x): return x + 1", "wrapped uses function, around which a decorator has put something"),
    ],
)
def test_decorated_functions_are_written_with_their_decorators_or_refused(
    cell: str, said: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"{DECORATORS}\n{cell}\ndef serve(p, r): return more(1)\n"
    serve = session(monkeypatch, one=text)["one"].serve
    if said is None:
        assert served(live_workload({"up": Upscaler()}, serve, REQUESTS, folder=tmp_path)) == serve(None, None)
    else:
        with pytest.raises(UserError, match=said):
            live_workload({"up": Upscaler()}, serve, REQUESTS, folder=tmp_path)


def test_a_function_that_loads_may_stand_in_the_place_of_the_pipelines(tmp_path: Path) -> None:
    written = live_workload(load, run, REQUESTS, folder=tmp_path)
    text = written.file.read_text()
    assert "def load(device: str)" in text
    assert "class Upscaler(torch.nn.Module)" in text
    compile(text, "workload.py", "exec")


def draws(pipelines: Any, request: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    call = {"num_inference_steps": 1, "width": SIDE, "height": SIDE, "generator": generator, "output_type": "pt"}
    return pipelines["main"]("a cat", **call).images


def test_folders_are_shared_by_equal_workloads_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    one, other = tiny_sdxl(), tiny_sdxl()
    with torch.no_grad():
        other.unet.conv_out.weight.mul_(3)
    first = live_workload({"main": one}, draws, REQUESTS)
    second = live_workload({"main": other}, draws, REQUESTS)
    assert live_workload({"main": one}, draws, REQUESTS).folder == first.folder != second.folder
    assert {each.name for each in first.folder.parent.iterdir()} == {first.folder.name, second.folder.name}
    with torch.no_grad():
        assert torch.equal(served(first), draws({"main": one}, None))
        assert torch.equal(served(second), draws({"main": other}, None))
    with pytest.raises(UserError, match="holds something else already: name another folder, or remove this one"):
        live_workload({"main": one}, draws, REQUESTS, folder=second.folder)
    with torch.no_grad():
        assert torch.equal(served(second), draws({"main": other}, None))


class Half(AttnProcessor2_0):  # type: ignore[misc]
    def __call__(self, *arguments: Any, **more: Any) -> Any:
        return super().__call__(*arguments, **more) / 2


def with_an_ip_adapter(pipeline: Any) -> None:
    pipeline.load_ip_adapter(
        ip_adapter(pipeline.unet), subfolder="", weight_name="x.safetensors", image_encoder_folder=None
    )


def with_seamless_edges(pipeline: Any) -> None:
    for each in pipeline.unet.modules():
        if isinstance(each, torch.nn.Conv2d):
            each.padding_mode = "circular"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda main: attach_lora(main.unet), r"main.unet has a LoRA, style, which cannot be written: take it out"),
        (with_an_ip_adapter, "main.unet has an IP-Adapter, which cannot be written: take it out"),
        (lambda main: main.enable_freeu(0.9, 0.2, 1.2, 1.4), r"main.unet.up_blocks.0: b1 is 1.2, and will be None"),
        (lambda main: main.unet.set_attn_processor(Half()), "attn1: processor is .*Half, and will be .*Processor2_0"),
        (
            lambda main: main.unet.conv_in.register_forward_hook(lambda *_: None),
            r"main.unet.conv_in: hooks is .*, and will be \[\] when .*: do that in a function load\(device\)",
        ),
        (with_seamless_edges, "main.unet.conv_in: padding_mode is circular, and will be zeros"),
        (lambda main: main.vae.enable_tiling(), "main.vae: use_tiling is True, and will be False"),
        (lambda main: main.image_processor.register_to_config(do_normalize=False), "main.image_processor: do_normal"),
        (
            lambda main: main.unet.conv_norm_out.to(torch.float64),
            r"main.unet.conv_norm_out.weight: this weight has .* dtype",
        ),
    ],
)
def test_what_would_be_lost_of_a_pipeline_is_named_and_nothing_is_left(change: Any, said: str, tmp_path: Path) -> None:
    main = tiny_sdxl()
    change(main)
    with pytest.raises(UserError, match=said):
        live_workload({"main": main}, draws, REQUESTS, folder=tmp_path / "written")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "change",
    [
        fuse_lora,
        lambda main: (attach_lora(main.unet), detach_lora(main.unet)),
        lambda main: (with_an_ip_adapter(main), main.unload_ip_adapter()),
        lambda main: (main.enable_freeu(0.9, 0.2, 1.2, 1.4), main.disable_freeu()),
        lambda main: setattr(main, "unet", torch.compile(main.unet, backend="eager")),
        lambda main: draws({"main": main}, None),
    ],
)
def test_what_is_in_the_weights_or_was_taken_back_is_no_obstacle(change: Any, tmp_path: Path) -> None:
    main = tiny_sdxl()
    with torch.no_grad():
        change(main)
        written = live_workload({"main": main}, draws, REQUESTS, folder=tmp_path)
        assert torch.equal(served(written), draws({"main": main}, None))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda up: setattr(up, "gain", 3.0), "up: gain is 3.0, and will be None"),
        (lambda up: up.register_forward_hook(lambda *_: None), "up: hooks is"),
        (lambda up: up.layer.eval(), "up.layer: training is False, and will be True"),
        (lambda up: up.register_buffer("more", torch.ones(1), persistent=False), "up.more: this weight is not there"),
    ],
)
def test_what_would_be_lost_of_a_module_is_named(change: Any, said: str, tmp_path: Path) -> None:
    up = Upscaler()
    change(up)
    with pytest.raises(UserError, match=said):
        live_workload({"up": up}, draws, REQUESTS, folder=tmp_path)


def load(device: str) -> dict[str, Any]:
    return {"upscaler": Upscaler().to(device)}


@pytest.mark.parametrize(
    ("entries", "function", "said"),
    [
        ({"up": Upscaler()}, uses_a_lock, r"uses_a_lock uses LOCK, a object: .* take it from `pipelines`"),
        ({"up": Upscaler()}, uses_an_enum, "uses_an_enum uses HIGH, a Level: "),
        ({"up": Upscaler()}, uses_a_number_of_numpy, "uses_a_number_of_numpy uses SCALE, a float64: "),
        ({"up": Upscaler()}, uses_a_name_that_is_nowhere, "uses nowhere, which is defined nowhere"),
        ({"up": torch.nn.Linear(2, 2)}, run, "'up', a Linear, is not made without arguments: give a function load"),
        ({"tools": SimpleNamespace()}, run, "'tools' is a SimpleNamespace, which cannot be written to a file"),
        ({}, run, "pipelines has to be"),
        ({"up": Upscaler()}, lambda pipelines, request: None, "uses a lambda"),
    ],
)
def test_what_cannot_be_written_is_refused_with_the_reason(
    tmp_path: Path, entries: Any, function: Any, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        live_workload(entries, function, REQUESTS, folder=tmp_path)


UP = """import functools, torch
class Up(torch.nn.Module):
    gain = 2
    def forward(self, x): return x * self.gain
"""
SERVE = "def serve(p, r): return p['up'](torch.ones(1, 3, 8, 8))\n"


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (UP + SERVE + "Up.gain = 5", "Up.gain is 5, and will be 2"),
        (UP.replace("= 2", "= GAIN").replace("class", "GAIN = 2\nclass") + SERVE + "GAIN = 9", "Up.gain is 2, and wi"),
        (
            UP + "S = 2.0\ndef serve(p, r, s=S): return p['up'](torch.ones(1)) * s\nS = 3.0",
            "the default of serve's s is 2.0, and will be 3.0",
        ),
        (UP + SERVE + "serve.note = 3", "serve.note is there, and will not be"),
        (
            UP + "def more(k):\n    def wrap(f):\n        @functools.wraps(f)\n        def by(*a): return f(*a) * k\n"
            "        return by\n    return wrap\nK = 2\n@more(K)\n" + SERVE + "K = 5",
            "k in serve is 2, and will be 5",
        ),
        (
            UP + "def outer():\n    def serve(p, r): return inner()\n    if False: inner = 0\n    return serve\n"
            "serve = outer()",
            "serve uses inner, which has no value yet",
        ),
    ],
)
def test_a_source_that_would_do_something_else_than_the_session_is_refused(
    cell: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = session(monkeypatch, one=cell)["one"]
    with pytest.raises(UserError, match=said):
        live_workload({"up": notebook.Up()}, notebook.serve, REQUESTS, folder=tmp_path / "written")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "cell",
    [
        "import torch\nFACTOR = 2\ndef make():\n    FACTOR = 5\n    class Up(torch.nn.Module):\n"
        "        def forward(self, x): return x * FACTOR\n    return Up\nUp = make()\n",
        "import torch\nif False:\n    class Up(torch.nn.Module):\n        def forward(self, x): return x * 2\n"
        "else:\n    class Up(torch.nn.Module):\n        def forward(self, x): return x * 3\n",
        "import torch\ndef larger(kind):\n    kind.gain = 4\n    return kind\n@larger\n" + UP.partition("\n")[2],
    ],
)
def test_a_class_is_written_as_it_was_defined(cell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = session(monkeypatch, one=cell + SERVE)["one"]
    live = {"up": notebook.Up()}
    written = live_workload(live, notebook.serve, REQUESTS, folder=tmp_path / "written")
    assert torch.equal(served(written), notebook.serve(live, None))


@pytest.mark.parametrize(
    ("made", "changed"),
    [
        ("[torch.ones(1)]", [torch.zeros(1)]),
        ("numpy.ones(2)", numpy.zeros(2)),
        ("types.SimpleNamespace(v=1)", SimpleNamespace(v=3)),
        ("{1}", {3}),
        ("{'_a': 1}", {"_a": 3}),
        ("b'1'", b"3"),
    ],
)
def test_what_a_layer_keeps_beside_its_weights_is_compared(
    made: str, changed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = f"    def __init__(self):\n        super().__init__()\n        self.kept = {made}\n"
    cell = "import numpy, types\n" + UP.replace("    gain = 2\n", f"    gain = 2\n{kept}") + SERVE
    notebook = session(monkeypatch, one=cell)["one"]
    up = notebook.Up()
    live_workload({"up": up}, notebook.serve, REQUESTS, folder=tmp_path / "same")
    up.kept = changed
    with pytest.raises(UserError, match=r"up: kept.* when it is loaded again"):
        live_workload({"up": up}, notebook.serve, REQUESTS, folder=tmp_path / "other")


def brighter(pipeline: Any, name: str) -> None:
    original = getattr(pipeline, name)
    setattr(pipeline, name, types.MethodType(lambda self, *args, **kwargs: original(*args, **kwargs), pipeline))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda main: brighter(main, "encode_prompt"), "main.encode_prompt: a function was put there, and will not be"),
        (lambda main: brighter(main.scheduler, "step"), "main.scheduler.step: a function was put there"),
        (lambda main: brighter(main.image_processor, "postprocess"), "main.image_processor.postprocess: a function"),
        (
            lambda main: setattr(main.scheduler, "alphas_cumprod", main.scheduler.alphas_cumprod**2),
            "main.scheduler: alphas_cumprod holds other numbers",
        ),
        (
            lambda main: setattr(main.tokenizer.backend_tokenizer, "normalizer", normalizers.Replace("cat", "dog")),
            "main.tokenizer: normalizer is .*, and will be",
        ),
        (lambda main: main.register_modules(extra=Upscaler()), "'main' has other components than a Stable"),
    ],
)
def test_what_is_changed_beside_a_configuration_is_named(change: Any, said: str, tmp_path: Path) -> None:
    main = tiny_sdxl()
    change(main)
    with pytest.raises(UserError, match=said):
        live_workload({"main": main}, draws, REQUESTS, folder=tmp_path / "written")


def test_a_method_that_was_put_into_a_packages_class_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = AttnProcessor2_0.__call__
    monkeypatch.setattr(AttnProcessor2_0, "__call__", lambda *args, **kwargs: original(*args, **kwargs))
    with pytest.raises(UserError, match=r"same .*: AttnProcessor2_0.__call__ is not its package's"):
        live_workload({"main": tiny_sdxl()}, draws, REQUESTS, folder=tmp_path / "written")


def test_new_tokens_are_written_too(tmp_path: Path) -> None:
    main = StableDiffusionXLPipeline.from_pretrained(Path(paretune.__path__[0]) / "studies" / "quickstart" / "model")
    main.set_progress_bar_config(disable=True)
    width = main.text_encoder.config.hidden_size
    main.load_textual_inversion(torch.ones(2, width), "<cat>", tokenizer=main.tokenizer, text_encoder=main.text_encoder)
    written = live_workload({"main": main}, draws, REQUESTS, folder=tmp_path)
    with torch.no_grad():
        assert torch.allclose(served(written), draws({"main": main}, None), atol=1e-3)


@pytest.mark.parametrize("kind", [DPMSolverMultistepScheduler, UniPCMultistepScheduler, HeunDiscreteScheduler])
def test_what_a_call_leaves_in_a_scheduler_is_no_obstacle(kind: Any, tmp_path: Path) -> None:
    main = tiny_sdxl()
    main.scheduler = kind.from_config(main.scheduler.config)
    with torch.no_grad():
        expected = draws({"main": main}, None)
        assert torch.equal(served(live_workload({"main": main}, draws, REQUESTS, folder=tmp_path)), expected)


@pytest.mark.parametrize("requests", [REQUESTS[0], None, ["a cat"]])
def test_requests_that_are_no_list_of_mappings_are_refused(requests: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="requests has to be a list of mappings"):
        live_workload({"up": Upscaler()}, run, requests, folder=tmp_path)


SWITCHES = [
    "torch.backends.cuda.matmul.allow_tf32 = True",
    "torch.set_float32_matmul_precision('medium')",
    "torch.backends.cudnn.allow_tf32 = False",
    "torch.backends.cudnn.benchmark = True",
    "torch.backends.cuda.enable_flash_sdp(False)",
    "torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False",
]


@pytest.mark.parametrize("switch", SWITCHES)
def test_switches_that_a_session_has_set_are_set_in_trials(switch: str) -> None:
    """Where trials computed without TF32, a notebook with it would gain what it has already."""
    code = (
        f"import torch\n{switch}\nfrom paretune.studies._live_switches import switch_statements\n"
        "from paretune.search_space import described_switches\nimport json\n"
        "print(json.dumps([switch_statements(), described_switches()]))"
    )
    statements, now = json.loads(_printed(code))
    assert statements
    again = "import torch, json\n" + "\n".join(statements) + "\nfrom paretune.search_space import described_switches\n"
    assert json.loads(_printed(f"{again}print(json.dumps(described_switches()))")) == now


def _printed(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


def test_a_session_as_it_began_needs_none_and_others_are_written_into_load(tmp_path: Path) -> None:
    def written(folder: str) -> str:
        made = paretune.workload({"main": tiny_sdxl()}, run, REQUESTS, folder=tmp_path / folder)
        return (made.folder / "workload.py").read_text()

    assert "torch.backends" not in written("as-it-began")
    torch.backends.cudnn.benchmark = True
    try:
        changed = written("changed")
    finally:
        torch.backends.cudnn.benchmark = False
    assert "    torch.backends.cudnn.benchmark = True\n    here = " in changed
