"""benchmarks/peers.py: what runs, and what the table says."""

import subprocess
import sys
from typing import Any

import peers
import pytest
from paretune.agent.results import TORCH_COMPILE, is_torch_compile_alone
from paretune.search_space import Configuration, Target, impossible, technique
from paretune.testing import TINY_FACTS

ALL = {name: one.here() or one for name, one in peers.CONTENDERS.items()}
PACKAGES = frozenset(p for one in ALL.values() for name in one.techniques for p in technique(name).all_packages())
H100 = Target(device="cuda", name="H100", compute_capability=(9, 0), memory_gib=79.6, packages=PACKAGES)


@pytest.mark.parametrize("name", [name for name, one in ALL.items() if one.techniques])
def test_every_contender_can_run_on_a_gpu(name: str) -> None:
    modules = {role: {**vars(facts), "dtype": "float16"} for role, facts in TINY_FACTS.modules.items()}
    described = {**TINY_FACTS.to_dict(), "modules": modules}
    facts = {"main": type(TINY_FACTS).from_dict(described)}
    assert impossible(Configuration.of(ALL[name].techniques), H100, facts) is None


def test_the_baselines_are_those_of_the_reports() -> None:
    assert Configuration.of(peers.CONTENDERS[peers.BASELINE].techniques) == TORCH_COMPILE
    assert is_torch_compile_alone(Configuration.of(peers.CONTENDERS[peers.BEST_BASELINE].techniques))


def test_without_its_package_a_contender_is_left_out_or_stands_for_it_and_says_so() -> None:
    absent = peers.Contender("theirs", {}, package="no_such_package")
    assert absent.here() is None
    ours = peers.Contender("ours, the package is not installed", {})
    assert peers.Contender("theirs", {}, package="no_such_package", instead=ours).here() is ours
    assert peers.CONTENDERS["open package"].instead is not None
    assert "the package is not installed" in peers.CONTENDERS["open package"].instead.title


def test_the_table_has_a_ratio_to_both_ways_of_torch_compile() -> None:
    rest = {"first_call_s": 5.0, "peak_gib": 9.0, "difference": 0.0, "kernels": 1000}
    results = {
        name: {"milliseconds": [ms, ms * 1.5], "busy_share": 0.5, "by_kind_ms": {"attention": 100.0}, **rest}
        for name, ms in (("eager", 2000.0), (peers.BASELINE, 1000.0), (peers.BEST_BASELINE, 800.0))
    }
    text = peers.table(results)
    assert "| the unchanged pipeline | 2500 (2000 to 3000) | 2.00 (2.00 to 2.00) | 2.50 (2.50 to 2.50) | 50% |" in text
    assert "| the unchanged pipeline | 100 | 1,000 |" in text


def test_who_ends_between_two_blocks_is_left_out_and_the_others_go_on() -> None:
    lasting = 'import sys\nfor line in sys.stdin:\n    print(\'{"milliseconds": 5, "peak_gib": 1}\', flush=True)'
    once = 'import sys\nsys.stdin.readline()\nprint(\'{"milliseconds": 7, "peak_gib": 2}\', flush=True)'
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = {
        name: subprocess.Popen([sys.executable, "-c", code], **pipes)
        for name, code in (("once", once), ("lasting", lasting))
    }
    first = dict(peers.in_turns(processes, ["once", "lasting"], "time"))
    processes["once"].wait()
    second = dict(peers.in_turns(processes, list(first), "time"))
    assert (list(first), list(second)) == (["once", "lasting"], ["lasting"])
    known = {"milliseconds": [15], "busy_ms": 8.0}
    added = peers.add_block(known, second["lasting"])
    assert added["milliseconds"] == [15, 5]
    assert added["busy_share"] == 0.8
    assert known["milliseconds"] == [15], "the earlier block stays as it is written"
    processes["lasting"].communicate()
