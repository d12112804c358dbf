"""Compiled code that travels: it computes with the weights that are there, for the calls that it was built for."""

import functools
import json
import logging
import marshal
import os
import shutil
import sys
import threading
import time
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from paretune.search_space import Configuration, apply_source
from paretune.search_space._standalone import byte_code, in_folder, start_triton
from paretune.search_space._structure import watched_structure
from paretune.testing import fuse_lora, ip_adapter, load_lora, picture, relative_difference, tiny_sdxl
from transformers import CLIPTextConfig, CLIPTextModel


class Denoiser(torch.nn.Module):
    """A denoiser with everything that code could keep for itself: constants, scales, a tensor that is no parameter."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.last = torch.nn.Linear(8, 16), torch.nn.Linear(16, 8)
        self.register_buffer("shift", torch.randn(8))
        self.delta = torch.randn(16)
        self.scale = 2.0
        self.eval()

    def forward(self, sample: torch.Tensor, timestep: Any, kept: Any = None, return_dict: bool = True) -> Any:
        """Takes what a U-Net takes: a tensor, a time, a dictionary."""
        inner = torch.nn.functional.gelu(self.first(sample) * timestep + self.delta) * torch.tensor([0.5])
        noise = self.last(inner) * self.scale + self.shift + kept["text"].sum()
        return {"sample": noise} if return_dict else (noise,)


Served = tuple[Any, Denoiser, Callable[..., torch.Tensor]]


@pytest.fixture(scope="module")
def apply_py() -> types.ModuleType:
    """What a bundle holds."""
    module = types.ModuleType("apply_with_artefacts")
    exec(apply_source(Configuration.of({"torch_compile": {}})), vars(module))
    setattr(module, "trusted", lambda folder, pipelines, **how: folder)  # noqa: B010  (it has tests of its own)
    return module


def build(apply_py: types.ModuleType, folder: Path, way: str, denoiser: torch.nn.Module) -> Path:
    """Code for the call of a denoiser."""
    folder.mkdir()
    (folder / "index.json").write_text(json.dumps({"schema": 1, "way": way, "torch": torch.__version__, "parts": []}))
    pipelines = {"main": SimpleNamespace(unet=denoiser)}
    apply_py.apply(pipelines, folder, on_miss="build")
    call(denoiser)
    call(denoiser)
    counted = apply_py.counters(pipelines)
    assert (counted["missed"], counted["loaded"]) == (1, 1), (folder / "index.json").read_text()
    return folder


@pytest.fixture(
    scope="module",
    params=[
        "standalone_compile",
        pytest.param("aot_compile", marks=pytest.mark.slow),
        pytest.param("aotinductor", marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
    ],
)
def artefacts(
    request: pytest.FixtureRequest, apply_py: types.ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Built once in each way, from the call of a denoiser with other weights than any test has."""
    return build(apply_py, tmp_path_factory.mktemp("bundle") / "artefacts", request.param, Denoiser(seed=1))


def call(denoiser: Any, batch: int = 4, **changed: Any) -> torch.Tensor:
    """The noise."""
    drawn = torch.randn((batch, 8), generator=torch.Generator().manual_seed(0))
    arguments = {"sample": drawn, "timestep": torch.tensor(0.3), "kept": {"text": torch.ones(3)}, "return_dict": False}
    with torch.no_grad():
        returned = denoiser(**{**arguments, **changed})
    result: torch.Tensor = returned["sample"] if isinstance(returned, dict) else returned[0]
    return result


def eager(denoiser: Any, **changed: Any) -> torch.Tensor:
    """The same without what took the place of forward()."""
    return call(lambda **arguments: Denoiser.forward(denoiser, **arguments), **changed)


def served(apply_py: types.ModuleType, folder: Path, on_miss: str = "eager") -> tuple[Denoiser, dict[str, Any]]:
    """A denoiser in a worker."""
    denoiser = Denoiser()
    pipelines = {"main": SimpleNamespace(unet=denoiser), "second": SimpleNamespace(unet=denoiser)}
    apply_py.apply(pipelines, folder, on_miss=on_miss)
    return denoiser, pipelines


def test_code_computes_with_the_weights_of_the_live_module(apply_py: types.ModuleType, artefacts: Path) -> None:
    denoiser, pipelines = served(apply_py, artefacts)
    changes: list[Callable[[], Any]] = [
        lambda: None,
        lambda: denoiser.first.weight.data.mul_(3),
        lambda: setattr(denoiser.last, "bias", torch.nn.Parameter(torch.randn(8))),
        lambda: denoiser.shift.fill_(7),
        lambda: denoiser.delta.neg_(),
        lambda: setattr(denoiser, "delta", torch.randn(16)),
        lambda: denoiser.load_state_dict(Denoiser(seed=5).state_dict(), assign=True),
    ]
    for number, change in enumerate(changes, start=1):
        change()
        assert torch.allclose(call(denoiser), eager(denoiser), atol=1e-5), number
        assert apply_py.counters(pipelines)["loaded"] == number
    assert apply_py.counters(pipelines)["graphs"] == 0


class Plain(torch.nn.Module):
    """Nothing but products of matrices, which torch need not compile anything for."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.last = torch.nn.Linear(8, 16), torch.nn.Linear(16, 8)
        self.eval()

    def forward(self, sample: torch.Tensor, **others: Any) -> Any:
        """The noise alone."""
        return (self.last(self.first(sample)),)


def test_code_of_aot_compile_takes_other_weights_too(apply_py: types.ModuleType, tmp_path: Path) -> None:
    folder = build(apply_py, tmp_path / "artefacts", "aot_compile", Plain(seed=1))
    denoiser = Plain()
    apply_py.apply({"main": SimpleNamespace(unet=denoiser)}, folder, on_miss="error")

    def fits() -> bool:
        return torch.allclose(call(denoiser), call(lambda **arguments: Plain.forward(denoiser, **arguments)), atol=1e-5)

    assert fits()
    denoiser.first.weight.data.mul_(3)
    denoiser.last.bias = torch.nn.Parameter(torch.randn(8))
    assert fits()
    with pytest.raises(RuntimeError, match="nothing was built for such a call"):
        call(denoiser, batch=3)


def test_triton_finds_its_access_to_the_driver_in_the_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Triton does it: compiled into whatever its folder is when it is first needed."""

    class CudaUtils:
        def __init__(self) -> None:
            library = Path(os.environ["TRITON_CACHE_DIR"], "key", "cuda_utils.so")
            if not library.exists():
                library.parent.mkdir(parents=True)
                library.write_text(f"compiled {sum(1 for _ in tmp_path.rglob('*.so'))}")
            self.found = library.read_text()

    class Driver:
        @property
        def active(self) -> Any:
            return SimpleNamespace(utils=CudaUtils())

    monkeypatch.setitem(sys.modules, "triton.backends.nvidia.driver", types.ModuleType("driver"))
    monkeypatch.setattr(sys.modules["triton.backends.nvidia.driver"], "CudaUtils", CudaUtils, raising=False)
    for name in ("triton", "triton.backends", "triton.backends.nvidia", "triton.runtime"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setattr(sys.modules["triton.runtime"], "driver", Driver(), raising=False)
    start_triton(tmp_path / "driver", changing=False)
    assert not list(tmp_path.rglob("*.so")), "a bundle that has none is left as it is"
    start_triton(tmp_path / "driver", changing=True)
    start_triton(tmp_path / "driver", changing=False)
    assert [file.read_text() for file in tmp_path.rglob("*.so")] == ["compiled 0"]


@pytest.fixture
def switched() -> Iterator[None]:
    """With another precision of matrix products."""
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision("highest")


OTHER_CALLS: dict[str, tuple[dict[str, Any], str]] = {
    "another batch": ({"batch": 3}, "built: sample: shape [3, 8], not [4, 8] ("),
    "other strides": ({"sample": torch.randn(8, 4).T}, "built: sample: stride [1, 4], not [8, 1] ("),
    "another number format": (
        {"timestep": torch.tensor(0.3, dtype=torch.float64)},
        "built: timestep: dtype torch.float64, not torch.float32 (",
    ),
    "a number instead of a tensor": ({"timestep": 0.3}, "built: timestep: 0.3, not a tensor ("),
    "another flag": ({"return_dict": True}, "built: return_dict: True, not False ("),
    "another key": ({"kept": {"text": torch.ones(3), "image": torch.ones(3)}}, "built: kept.image is given ("),
    "an argument of an unknown kind": (
        {"kept": types.MappingProxyType({"text": torch.ones(3)})},
        "nothing can be built for this call, because an argument is a mappingproxy (",
    ),
    "a number of another library": (
        {"timestep": numpy.float64(0.3)},
        "nothing can be built for this call, because a float64 cannot be put together again (",
    ),
    "a dictionary of a class of its own": (
        {"kept": OrderedDict(text=torch.ones(3))},
        "nothing can be built for this call, because a OrderedDict cannot be put together again (",
    ),
}


@pytest.mark.parametrize(("changed", "said"), OTHER_CALLS.values(), ids=OTHER_CALLS.keys())
def test_a_call_that_nothing_fits_is_right_counted_and_said_once(
    changed: dict[str, Any],
    said: str,
    apply_py: types.ModuleType,
    artefacts: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    denoiser, pipelines = served(apply_py, artefacts)
    with caplog.at_level(logging.WARNING, "artefacts"):
        for _ in range(2):
            assert torch.equal(call(denoiser, **changed), eager(denoiser, **changed))
    counted = apply_py.counters(pipelines)
    assert (counted["missed"], counted["eager"], counted["loaded"]) == (2, 2, 0)
    messages = [record.getMessage() for record in caplog.records if record.name == "artefacts"]
    assert len(messages) == 1
    assert said in messages[0]
    assert torch.allclose(call(denoiser), eager(denoiser), atol=1e-5)
    assert apply_py.counters(pipelines)["loaded"] == 1


@pytest.mark.usefixtures("switched")
def test_code_is_not_used_under_other_switches(
    apply_py: types.ModuleType, artefacts: Path, caplog: pytest.LogCaptureFixture
) -> None:
    denoiser, pipelines = served(apply_py, artefacts)
    with caplog.at_level(logging.WARNING, "artefacts"):
        call(denoiser)
    assert apply_py.counters(pipelines)["loaded"] == 0
    assert "built: float32_matmul_precision is high, not highest" in caplog.text
    torch.set_float32_matmul_precision("highest")
    call(denoiser)
    assert apply_py.counters(pipelines)["loaded"] == 1


@pytest.mark.parametrize(("library", "precision"), [("cuda.matmul", "tf32"), ("cudnn.conv", "ieee")])
def test_switches_that_are_set_for_one_library_are_compared_too(
    library: str, precision: str, apply_py: types.ModuleType, artefacts: Path
) -> None:
    """In torch's newer way, after which its older one can no longer be asked."""
    denoiser, pipelines = served(apply_py, artefacts)
    owner = functools.reduce(getattr, library.split("."), torch.backends)
    before, owner.fp32_precision = owner.fp32_precision, precision
    try:
        assert torch.equal(call(denoiser), eager(denoiser))
    finally:
        owner.fp32_precision = before
        torch.set_float32_matmul_precision("highest")
    assert apply_py.counters(pipelines)["missed"] == 1
    assert torch.allclose(call(denoiser), eager(denoiser), atol=1e-5)
    assert apply_py.counters(pipelines)["loaded"] == 1


def test_threads_that_share_a_module_may_make_its_first_calls_at_once(
    apply_py: types.ModuleType, artefacts: Path
) -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(20):
            denoiser, pipelines = served(apply_py, artefacts)
            expected, together = eager(denoiser), threading.Barrier(4)

            def first(denoiser: Denoiser = denoiser, together: threading.Barrier = together) -> torch.Tensor:
                together.wait()
                return call(denoiser)

            with ThreadPoolExecutor(4) as threads:
                made = [one.result() for one in [threads.submit(first) for _ in range(4)]]
            assert all(torch.allclose(one, expected, atol=1e-5) for one in made)
            assert apply_py.counters(pipelines)["missed"] == 0
    finally:
        sys.setswitchinterval(interval)


def test_code_is_not_used_for_a_module_that_computes_something_else(
    apply_py: types.ModuleType, artefacts: Path
) -> None:
    denoiser, pipelines = served(apply_py, artefacts)
    changes: list[Callable[[], Any]] = [
        lambda: setattr(denoiser, "scale", 3.0),
        lambda: (setattr(denoiser, "scale", 2.0), denoiser.first.register_forward_hook(lambda *given: given[2] * 2)),
        lambda: (denoiser.first._forward_hooks.clear(), setattr(denoiser, "last", torch.nn.Linear(16, 8, bias=False))),
        lambda: setattr(denoiser, "last", torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.Tanh())),
        lambda: (setattr(denoiser, "last", torch.nn.Linear(16, 8)), denoiser.train()),
    ]
    for change in changes:
        change()
        assert torch.equal(call(denoiser), eager(denoiser))
    assert apply_py.counters(pipelines)["loaded"] == 0
    denoiser.eval()
    assert torch.allclose(call(denoiser), eager(denoiser), atol=1e-5)
    assert apply_py.counters(pipelines)["loaded"] == 1


def test_a_miss_can_be_an_error(apply_py: types.ModuleType, artefacts: Path) -> None:
    denoiser, _ = served(apply_py, artefacts, "error")
    call(denoiser)
    with pytest.raises(RuntimeError, match="forward of Denoiser: nothing was built for such a call"):
        call(denoiser, batch=3)
    denoiser.scale = 3.0
    with pytest.raises(RuntimeError, match="built: layers, settings or weights of the module, and on_miss is error"):
        call(denoiser)


def test_a_miss_is_compiled_in_another_thread(
    apply_py: types.ModuleType, artefacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **how: compile(function, backend="eager"))
    # Equal modules of a process share their graphs, and one way's test must not find what another one's has compiled.
    torch._dynamo.reset()
    for graphs in (1, 0):
        denoiser, pipelines = served(apply_py, artefacts, "compile")
        ends = time.monotonic() + 120
        while not apply_py.counters(pipelines)["compiled"]:
            assert torch.allclose(call(denoiser, batch=3), eager(denoiser, batch=3), atol=1e-5)
            assert time.monotonic() < ends
            time.sleep(0.01)
        counted = apply_py.counters(pipelines)
        assert counted["eager"] >= 1
        assert counted["graphs"] == graphs


WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
listening: list[tuple[str, Any]] = []
heard: list[Any] = []


def listen(event: str, arguments: Any) -> None:
    """Hears of every file that this process writes or makes."""
    if listening and (
        (event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES and arguments[0] != os.devnull)
        or event in ("os.rename", "os.remove", "os.rmdir", "shutil.copyfile", "tempfile.mkdtemp")
        or (event == "os.mkdir" and not os.path.isdir(arguments[0]))
    ):
        heard.append((event, arguments[0]))


def test_loading_writes_nothing_anywhere(apply_py: types.ModuleType, artefacts: Path) -> None:
    """A bundle is read-only, and what a killed worker had written would stay."""
    sys.addaudithook(listen)
    listening.append(("now", None))
    try:
        denoiser, pipelines = served(apply_py, artefacts)
        call(denoiser)
    finally:
        listening.clear()
    assert heard == []
    assert apply_py.counters(pipelines)["loaded"] == 1


def test_python_that_launches_kernels_is_read_once(tmp_path: Path) -> None:
    """Of a U-Net it is megabytes; the byte code beside it is used for this source, and by this Python alone."""
    source = f"def where():\n    return 1\n# {'x' * 50_000}\n"
    there, moved = str(tmp_path / "kernels.py"), str(tmp_path / "elsewhere.py")

    def value_of(path: str, text: str = source, changing: bool = False) -> Any:
        code = byte_code(text, path, "exec", changing=changing, dont_inherit=True)
        module: dict[str, Any] = {}
        exec(code, module)
        assert {code.co_filename, module["where"].__code__.co_filename} == {path}, "Triton looks for the source there"
        return module["where"]()

    assert value_of(there) == 1
    assert not Path(f"{there}.code").exists(), "a bundle is read-only"
    assert value_of(there, changing=True) == 1
    head, other = Path(f"{there}.code").read_bytes()[:12], compile("def where():\n    return 2\n", there, "exec")
    Path(f"{there}.code").rename(f"{moved}.code")
    assert value_of(moved) == 1
    Path(f"{moved}.code").write_bytes(head + marshal.dumps(other))
    assert value_of(moved) == 2, "what lies there is read"
    assert value_of(moved, source.replace("return 1", "return 3")) == 3
    Path(f"{moved}.code").write_bytes(b"an older Python")
    assert value_of(moved) == 1


def test_a_worker_that_loads_starts_no_processes_to_compile_in(tmp_path: Path) -> None:
    """torch has them ready as soon as a kernel is loaded, and they take the processor from the first pictures."""
    from torch._inductor import config
    from torch._inductor.async_compile import AsyncCompile

    with config.patch(compile_threads=4):
        with in_folder(tmp_path, changing=False):
            assert not AsyncCompile.use_process_pool()
            assert AsyncCompile.process_pool.cache_info().currsize == 0
        assert config.compile_threads == 4, "what is compiled afterwards has them"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be used"),
        ("{", "cannot be used"),
        ('{"schema": 2, "way": "standalone_compile"}', "is of another version"),
        ('{"schema": 1, "way": "standalone_compile", "torch": "1.0", "parts": []}', "compiled by torch 1.0"),
    ],
)
def test_a_folder_that_cannot_be_used_is_said(
    text: str | None, said: str, apply_py: types.ModuleType, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / "index.json").write_text(text)
    with pytest.raises(RuntimeError, match=said):
        served(apply_py, tmp_path)
    with pytest.raises(ValueError, match="on_miss"):
        served(apply_py, tmp_path, "sometimes")


def test_code_that_cannot_be_loaded_is_left_out_or_with_strict_refused(
    apply_py: types.ModuleType, artefacts: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As where the system's C library is older than where it was built."""
    damaged = shutil.copytree(artefacts, tmp_path / "artefacts")
    for file in [each for each in damaged.joinpath("code").rglob("*") if each.is_file()]:
        file.write_bytes(b"of another system")
    denoiser, pipelines = served(apply_py, damaged)
    assert torch.equal(call(denoiser), eager(denoiser))
    assert apply_py.counters(pipelines)["missed"] == 1
    assert "the code for forward of Denoiser cannot be loaded" in caplog.text
    with pytest.raises(RuntimeError, match="the code for forward of Denoiser cannot be loaded"):
        apply_py.apply({"main": SimpleNamespace(unet=Denoiser())}, damaged, strict=True)


def test_every_change_of_a_unet_that_its_code_would_not_see_is_noticed() -> None:
    pipeline = tiny_sdxl()
    unet = pipeline.unet
    look = watched_structure(unet)
    first = look()
    assert watched_structure(tiny_sdxl().unet)()[0] == first[0]

    def is_another(change: Callable[[], Any], back: Callable[[], Any]) -> bool:
        change()
        changed = look()[0] != first[0]
        back()
        assert look()[0] == first[0]
        return changed

    assert is_another(lambda: pipeline.enable_freeu(0.9, 0.2, 1.1, 1.2), pipeline.disable_freeu)
    convolution = unet.down_blocks[0].resnets[0].conv1
    padding = [lambda mode=mode: setattr(convolution, "padding_mode", mode) for mode in ("circular", "zeros")]
    assert is_another(*padding)  # pictures that can be laid side by side
    assert is_another(unet.half, unet.float)
    assert is_another(unet.train, unet.eval)
    text_encoder = pipeline.text_encoder
    look_at_text = watched_structure(text_encoder)
    before = look_at_text()[0]
    with torch.no_grad():
        text_encoder(torch.ones(1, 77, dtype=torch.int64), output_hidden_states=True)
    assert look_at_text()[0] == before  # hooks that only look
    text_encoder.set_attn_implementation("eager")
    assert look_at_text()[0] != before
    fuse_lora(pipeline)
    unet.conv_in.weight.data = unet.conv_in.weight.data.clone()
    assert look()[0] == first[0]  # other numbers are read at each call
    unet._load_ip_adapter_weights([ip_adapter(unet)])
    with_adapter = look()[0]
    pipeline.set_ip_adapter_scale(0.5)
    assert len({first[0], with_adapter, look()[0]}) == 3
    pipeline.unload_ip_adapter()
    load_lora(pipeline)
    assert look()[0] != first[0]


STRENGTH = 1.0


def strengthened(strength: float) -> Any:
    def forward(image: torch.Tensor, weight: torch.Tensor, bias: Any) -> torch.Tensor:
        return strength * torch.nn.functional.conv2d(image, weight, bias, padding=1)

    return forward


def partly(strength: float, image: torch.Tensor, weight: torch.Tensor, bias: Any) -> torch.Tensor:
    return strength * torch.nn.functional.conv2d(image, weight, bias, padding=1)


class Processor(AttnProcessor2_0):
    """One that people write: with settings in an object, or in its module, or in a tensor."""

    def __init__(self, said: Any) -> None:
        super().__init__()
        self.said = said

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*args, **kwargs) * getattr(self.said, "strength", self.said) * STRENGTH


def test_what_people_write_into_a_unet_is_part_of_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    unet = tiny_sdxl().unet
    look = watched_structure(unet)
    seen = [look()[0]]

    def is_another() -> bool:
        seen.append(look()[0])
        return seen[-1] not in seen[:-1] and seen[-1] == watched_structure(unet)()[0]

    unet.conv_norm_out.eps = 0.1
    assert is_another()
    for forward in (strengthened(0.5), strengthened(0.7), functools.partial(partly, 0.5), functools.partial(partly, 1)):
        unet.conv_out._conv_forward = forward
        assert is_another()
    said = SimpleNamespace(strength=0.5)
    unet.set_attn_processor(Processor(said))
    assert is_another()
    said.strength = 0.7
    assert is_another()
    monkeypatch.setitem(globals(), "STRENGTH", 0.5)
    assert is_another()
    assert look() == look()


def test_code_that_would_keep_a_processors_tensor_is_not_built(apply_py: types.ModuleType, tmp_path: Path) -> None:
    pipeline = tiny_sdxl()
    pipeline.unet.set_attn_processor(Processor(torch.tensor(0.5)))
    apply_py.apply({"main": pipeline}, tmp_path, on_miss="build")
    picture(pipeline, steps=1)
    (part,) = json.loads((tmp_path / "index.json").read_text())["parts"]
    assert "said of the attention processor of " in part["failed"]


def test_what_was_not_built_because_it_could_not_be_is_a_miss_with_that_reason(
    apply_py: types.ModuleType, tmp_path: Path
) -> None:
    class Growing(torch.nn.Module):
        def forward(self, sample: torch.Tensor, **others: Any) -> Any:
            return (torch.rand_like(sample),)

    apply_py.apply({"main": SimpleNamespace(unet=(built := Growing()))}, tmp_path, on_miss="build")
    call(built)
    apply_py.apply({"main": SimpleNamespace(unet=(denoiser := Growing()))}, tmp_path, on_miss="error")
    with pytest.raises(RuntimeError, match="nothing was built for such a call: TypeError: it computes something else"):
        call(denoiser)


def test_a_worker_that_serves_what_was_served_while_building_misses_nothing(tmp_path: Path) -> None:
    """A text encoder puts hooks on its layers in its first call; loaded code answers that one, and they never come."""
    module = types.ModuleType("apply_text_encoders")
    exec(apply_source(Configuration.of({"torch_compile_text_encoders": {}})), vars(module))
    setattr(module, "trusted", lambda folder, pipelines, **how: folder)  # noqa: B010

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1}
    config = CLIPTextConfig(**sizes, vocab_size=8)

    def counted(on_miss: str) -> dict[str, int]:
        pipelines = {"main": SimpleNamespace(text_encoder=CLIPTextModel(config).eval())}
        module.apply(pipelines, tmp_path, on_miss=on_miss)
        for batch in (1, 1, 2):
            with torch.no_grad():
                pipelines["main"].text_encoder(torch.ones(batch, 77, dtype=torch.int64), output_hidden_states=True)
        counters: dict[str, int] = module.counters(pipelines)
        return counters

    assert counted("build")["missed"] == 2
    assert counted("error")["loaded"] == 3


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_requests_that_the_study_did_not_have_get_the_right_picture_and_are_counted(
    apply_py: types.ModuleType, tmp_path: Path
) -> None:
    """A batch, a size, another scheduler, a LoRA that is loaded, and one that is fused."""

    def other_scheduler(pipeline: Any) -> None:
        from diffusers import DDIMScheduler

        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)

    def nothing(pipeline: Any) -> None:
        pass

    def one(pipeline: Any) -> torch.Tensor:
        return picture(pipeline, batch=1)

    def larger(pipeline: Any) -> Any:
        seeded = {"generator": torch.Generator().manual_seed(0), "output_type": "pt", "num_inference_steps": 2}
        return pipeline("a cat", height=96, width=96, **seeded).images

    others: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any], bool]] = {
        "as in the study": (nothing, one, True),
        "another batch": (nothing, picture, False),
        "another size": (nothing, larger, False),
        "another scheduler": (other_scheduler, one, False),
        "a LoRA": (load_lora, one, False),
        "a LoRA that is fused": (fuse_lora, one, True),
    }
    built = tiny_sdxl()
    apply_py.apply(built, tmp_path, on_miss="build")
    one(built)
    for name, (change, request, loads) in others.items():
        plain, served = tiny_sdxl(), tiny_sdxl()
        change(plain)
        apply_py.apply(served, tmp_path, on_miss="eager")
        change(served)
        assert relative_difference(request(served), request(plain)) < 1e-4, name
        counted = apply_py.counters(served)
        assert counted["loaded"] + counted["missed"] == counted["calls"] > 0, name
        assert bool(counted["loaded"]) == loads, (name, counted)


SHAPES_OF_USE: dict[str, dict[str, dict[str, Any]]] = {
    "a step cache in two parts": {"deepcache": {"interval": 2, "branch": 0}, "torch_compile": {}, "channels_last": {}},
    "quantized weights in equal blocks": {
        "torchao_quantization": {"scheme": "int8_weight_only"},
        "torch_compile": {"region": "repeated_blocks"},
    },
    "text encoders and decoder": {"torch_compile_vae": {}, "torch_compile_text_encoders": {}},
}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("techniques", SHAPES_OF_USE.values(), ids=SHAPES_OF_USE.keys())
def test_pictures_of_loaded_code_are_those_of_the_pipeline(
    techniques: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    def applied(names: dict[str, dict[str, Any]], *arguments: Any, **options: Any) -> tuple[Any, dict[str, Any]]:
        module: dict[str, Any] = {"__name__": "applied"}
        exec(apply_source(Configuration.of(names)), module)
        module["trusted"] = lambda folder, pipelines, **how: folder
        pipeline = tiny_sdxl()
        module["apply"](pipeline, *arguments, **options)
        return pipeline, module

    uncompiled = {name: values for name, values in techniques.items() if not name.startswith("torch_compile")}
    wanted = picture(applied(uncompiled)[0], batch=1)
    picture(applied(techniques, tmp_path, on_miss="build")[0], batch=1)
    pipeline, module = applied(techniques, tmp_path, on_miss="error")
    for _ in range(2):
        assert relative_difference(picture(pipeline, batch=1), wanted) < 1e-4
    counted = module["counters"](pipeline)
    assert counted["loaded"] == counted["calls"] > 0
