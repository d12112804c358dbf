"""What compiles in one thread leaves the pictures that others make meanwhile alone."""

import json
import random
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from paretune.search_space import Configuration, apply_source
from paretune.search_space._beside import compiling_beside


class Beside:
    """A thread that runs step() in compiling_beside(), which waits in the middle until the test goes on."""

    def __init__(self, step: Callable[["Beside"], Any]) -> None:
        self.there, self.go_on = threading.Event(), threading.Event()
        self.failed: list[BaseException] = []
        self.thread = threading.Thread(target=self.run, args=(step,))

    def run(self, step: Callable[["Beside"], Any]) -> None:
        try:
            with compiling_beside():
                step(self)
        except BaseException as error:
            self.failed.append(error)

    def wait(self) -> None:
        """Called by step()."""
        self.there.set()
        assert self.go_on.wait(60)

    def __enter__(self) -> None:
        self.thread.start()
        assert self.there.wait(60)

    def __exit__(self, *error: Any) -> None:
        self.go_on.set()
        self.thread.join(60)
        assert not self.failed


def test_others_draw_the_random_numbers_that_they_would_draw_alone() -> None:
    def draw() -> tuple[float, float]:
        return float(torch.rand(())), random.random()

    def compile(beside: Beside) -> None:
        def backend(graph: Any, inputs: Any) -> Any:
            beside.wait()
            return graph.forward

        torch.compile(lambda value: value * 2 + 1, backend=backend)(torch.ones(3))

    random.seed(1)
    torch.manual_seed(1)
    alone = [draw() for _ in range(6)]
    random.seed(1)
    torch.manual_seed(1)
    drawn = [draw(), draw()]
    with Beside(compile):
        drawn += [draw(), draw()]
    drawn += [draw(), draw()]
    assert drawn == alone


def test_others_call_modules_and_compiled_code_while_something_is_traced() -> None:
    class Traced(torch.nn.Module):
        def forward(self, value: Any) -> Any:
            waiting[0].wait()
            return value + 1

    waiting: list[Beside] = []

    def trace(beside: Beside) -> None:
        waiting.append(beside)
        traced.append(torch.fx.symbolic_trace(Traced()))
        compiled.append(torch.compile(torch.nn.Linear(2, 2), backend="eager"))

    module, traced, compiled = torch.nn.Sequential(torch.nn.Linear(2, 2)), [], []  # type: ignore[var-annotated]
    expected = module(torch.ones(1, 2))
    called = type(module).__call__
    with compiling_beside():
        doubled = torch.compile(lambda value: value * 2, backend="eager")
    assert doubled(torch.ones(1)) == 2
    with Beside(trace):
        assert type(module).__call__ is not called, "the tracer is in its place"
        assert torch.equal(module(torch.ones(1, 2)), expected)
        assert doubled(torch.ones(1)) == 2
    assert type(module).__call__ is called
    assert traced[0](1) == 2


class Denoiser(torch.nn.Module):
    """Of one layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(4, 4)
        self.calls = 0
        self.eval()

    def forward(self, sample: torch.Tensor, given: Any = 1.0) -> torch.Tensor:
        """Scaled by what is given: a number, or something that counts for itself."""
        return self.layer(sample) * (given if isinstance(given, float) else given.next())


class Counting(Denoiser):
    """Another result with each call, as attention that is controlled from step to step."""

    def forward(self, sample: torch.Tensor, given: Any = 1.0) -> torch.Tensor:
        self.calls += 1
        return super().forward(sample, given) * self.calls


class Counter:
    """An argument that counts for itself."""

    def __init__(self) -> None:
        self.calls = 0

    def next(self) -> float:
        self.calls += 1
        return float(self.calls)


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Denoiser], Any]]:
    """Puts a denoiser into a worker whose bundle has code for none of its calls. Gives its counters()."""
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **how: compile(function, backend="eager"))
    torch._dynamo.reset()
    index = {"schema": 1, "way": "standalone_compile", "torch": torch.__version__, "parts": []}
    (tmp_path / "index.json").write_text(json.dumps(index))
    module = types.ModuleType("apply_of_a_bundle")
    exec(apply_source(Configuration.of({"torch_compile": {}})), vars(module))
    setattr(module, "trusted", lambda folder, pipelines, **how: folder)  # noqa: B010

    def served(denoiser: Denoiser) -> Any:
        pipelines = {"main": SimpleNamespace(unet=denoiser)}
        module.apply(pipelines, tmp_path, on_miss="compile")
        return lambda: module.counters(pipelines)

    yield served
    torch._dynamo.reset()


def call(denoiser: Any, *given: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = denoiser(torch.ones(1, 4), *given)
    return result


def settled(beside: str = "compile_aside") -> None:
    """Wait until nothing is compiled any more."""
    ends = time.monotonic() + 60
    while any(thread.name.endswith(f"({beside})") for thread in threading.enumerate()):
        assert time.monotonic() < ends
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("kind", "given"), [(Counting, ()), (Denoiser, (Counter,))], ids=["a module that counts", "an argument that counts"]
)
def test_what_counts_its_calls_is_not_called_once_more(
    kind: type[Denoiser], given: tuple[Any, ...], serve: Any
) -> None:
    plain, served = kind(), kind()
    counters = serve(served)
    ours, theirs = [one() for one in given], [one() for one in given]
    for number in range(1, 5):
        assert torch.equal(call(served, *ours), call(plain, *theirs)), number
        settled()
    counted = counters()
    assert (counted["missed"], counted["eager"], counted["compiled"]) == (4, 4, 0)


def test_what_was_compiled_meanwhile_follows_hooks_that_come_go_and_change(serve: Any) -> None:
    plain, served = Denoiser(), Denoiser()
    counters = serve(served)
    hooks: list[Any] = []

    def hook(factor: float) -> None:
        while hooks:
            hooks.pop().remove()
        for each in (plain, served) if factor != 1 else ():
            hooks.append(each.layer.register_forward_hook(lambda module, given, result: result * factor))

    for number, factor in enumerate((1.0, 2.0, 3.0, 1.0), start=1):
        hook(factor)
        for _ in range(3):
            assert torch.allclose(call(served), call(plain)), factor
            settled()
        assert counters()["missed"] == 3 * number
    assert counters()["compiled"] >= 8
