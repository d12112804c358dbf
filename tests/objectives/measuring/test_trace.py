"""A trace: requests in the order of production, with what a change of adapters costs kept apart."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from paretune.objectives.measuring import timing
from paretune.objectives.measuring.graphs_made import Compilations, Made
from paretune.objectives.measuring.stopping import StopRule
from paretune.objectives.measuring.trace import Trace
from paretune.studies import UserError, parse_study
from support.launching import tiny_study


@dataclass(frozen=True)
class Request:
    name: str
    adapters: tuple[str, ...] = ()
    weight: float = 1.0

    def shape(self) -> tuple[Any, ...]:
        return (self.name,)


PLAIN, ANN, BEN = Request("plain"), Request("ann", ("ann",)), Request("ben", ("ben",))
REQUESTS = [PLAIN, ANN, BEN]


def trace_of(*names: str) -> Trace:
    workload = SimpleNamespace(requests=REQUESTS, trace=list(names))
    return Trace.of(workload, [[one] for one in REQUESTS], lambda request: request.adapters)


def test_a_request_that_always_follows_a_change_is_called_once_more_so_that_its_own_time_is_known() -> None:
    trace = trace_of("plain", "plain", "ann", "ben", "ben")
    assert [request.name for request in trace.order] == ["plain", "plain", "ann", "ann", "ben", "ben"]
    assert (trace.length, trace.extra, trace.swaps) == (5, {3}, {0, 2, 4})
    assert trace_of() == Trace()


def test_latency_of_each_kind_of_the_mix_and_the_stall_after_a_change() -> None:
    """Adapters take 40 ms to load, once compiled, and requests 10, 20 and 30 ms."""
    trace, now, loaded, made = trace_of("plain", "plain", "ann", "ann", "ben", "ben"), [], [()], [0]

    def call(request: Request) -> tuple[float, Any]:
        stall_ms = 40.0 if request.adapters != loaded[0] else 0.0
        made[0] += request == BEN and request.adapters != loaded[0]
        loaded[0] = request.adapters
        now.append(request.name)
        return 10.0 * (1 + REQUESTS.index(request)) + stall_ms, torch.zeros(1, 3, 1, 1)

    measured = timing.time_shapes(
        [[one] for one in REQUESTS],
        "cpu",
        call=call,
        keep=lambda request, pictures: None,
        rule=StopRule(5, 5, 60, 0.5),
        trace=trace,
        compiled=lambda: Made(made[0], 0),
    )
    assert {shape["requests"][0]: shape["median_ms"] for shape in measured["latency"]} == {
        "plain": 10,
        "ann": 20,
        "ben": 30,
    }
    assert measured["swap_stall_ms"] == 40
    assert measured["latency_ms"] == pytest.approx((2 * 60 + 3 * 40) / 6)
    assert now[1:7] == ["plain", "plain", "ann", "ann", "ben", "ben"]
    rounds = len(now) // 6
    assert measured["swaps"]["n"] == 3 * rounds
    assert (measured["recompiles"], measured["swaps"]["recompiles"], measured["recaptures"]) == (rounds, rounds, 0)


def test_graphs_and_captures_are_counted_whoever_makes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda.CUDAGraph, "capture_begin", lambda self, **options: None)
    compiled = torch.compile(lambda x: x + 1, backend="eager", dynamic=False)
    with Compilations() as compilations:
        compiled(torch.zeros(2))
        compiled(torch.zeros(2))
        assert compilations.made() == Made(1, 0)
        compiled(torch.zeros(3))
        torch.cuda.CUDAGraph.capture_begin(None)
        assert compilations.made().since(Made(1, 0)) == Made(1, 1)
    torch._dynamo.reset()


def study(trace: Any, **keys: Any) -> Any:
    content = tiny_study("nowhere")  # type: ignore[arg-type]
    content["workload"] = {
        "python": "comic.py",
        "requests": [
            {"name": name, "prompt": "a cat", "width_px": 64, "height_px": 64, "steps": 2, "adapters": adapters}
            for name, adapters in (("plain", []), ("ann", ["ann"]))
        ],
        "trace": trace,
        **keys,
    }
    return content


@pytest.fixture(autouse=True)
def comic_py(tmp_path: Any) -> None:
    (tmp_path / "comic.py").write_text("def load(device, size=0): ...\ndef run(pipelines, request): ...\n")


def test_a_trace_is_a_sequence_or_drawn_with_a_seed_and_forbids_recompilations_where_it_swaps(tmp_path: Any) -> None:
    given = parse_study(study(["plain", "ann", "ann"]), "study.yaml", tmp_path)
    assert given.workload_description()["trace"] == ["plain", "ann", "ann"]
    assert (given.bound("recompiles"), given.bound("recaptures"), given.bound("swap_stall_ms")) == (0, 0, None)
    shares = {"plain": 3, "ann": 1}
    seeded = [{"length": 40, "seed": seed, "shares": shares} for seed in (1, 1, 2)]
    drawn = [parse_study(study(trace), "s", tmp_path).workload.trace_names for trace in seeded]
    assert drawn[0] == drawn[1] != drawn[2]
    assert 20 < drawn[0].count("plain") < 38
    steady = {**study(["plain", "ann"]), "limits": {"recompiles": 2}}
    assert parse_study(steady, "s", tmp_path).bound("recompiles") == 2
    assert parse_study(study(None), "s", tmp_path).bound("recompiles") is None


@pytest.mark.parametrize(
    ("trace", "said"),
    [
        (["plain", "bob"], "there is no request 'bob'; there are plain, ann"),
        (["plain"], "the request 'ann' is never sent"),
        ({"length": 1}, "it needs a length of 2 at least"),
        ({"length": 5, "shares": {"plain": 0, "ann": 1}}, "a share is a number above 0"),
    ],
)
def test_a_trace_that_does_not_fit_the_requests_is_a_sentence(tmp_path: Any, trace: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_study(study(trace), "study.yaml", tmp_path)


def test_a_size_takes_the_place_of_the_workloads_keys_and_options_go_to_load(tmp_path: Any) -> None:
    content = study(None, size="large", options={"size": 3}, sizes={"large": {"options": {"size": 2, "a": 1}}})
    found = parse_study(content, "study.yaml", tmp_path).workload
    assert (found.options, found.sizes) == ({"size": 3, "a": 1}, {})
    content["workload"]["size"] = "huge"
    with pytest.raises(UserError, match=r"there is no size 'huge' under workload.sizes; there are large"):
        parse_study(content, "study.yaml", tmp_path)
