"""A result.json that is none is a crash of its own trial, in words."""

import json
from pathlib import Path

import pytest
from paretune.agent.trial.result import MOST_BYTES, NEEDED, announced, read_result, with_start
from paretune.studies import Outcome

MEASURED = dict.fromkeys(NEEDED, 1.5)
GOOD = {"schema": 2, "outcome": "complete", "measurements": MEASURED, "phases_s": {"load": 1.0}}
BROKEN: dict[str, bytes | dict[str, object]] = {
    "empty": b"",
    "cut short": json.dumps(GOOD).encode()[:-5],
    "not text": b"\xff\xfe\x00\x01",
    "a list": b"[1, 2]",
    "nested without end": b"[" * 200_000,
    "NaN": {**GOOD, "measurements": {**MEASURED, "latency_ms": float("nan")}},
    "nothing in it": {},
    "an outcome that there is not": {**GOOD, "outcome": "great"},
    "measurements that are a list": {**GOOD, "measurements": [1]},
    "nothing measured": {**GOOD, "measurements": {}},
    "a latency that is text": {**GOOD, "measurements": {**MEASURED, "latency_ms": "fast"}},
    "phases that are text": {**GOOD, "phases_s": {"load": "long"}},
    "a reason that is a number": {**GOOD, "outcome": "crash", "reason": 5},
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_result_is_a_crash_that_says_so(tmp_path: Path, case: str) -> None:
    content = BROKEN[case]
    (tmp_path / "result.json").write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    result = read_result(tmp_path, 0, NEEDED)
    assert result.outcome is Outcome.CRASH
    assert result.reason.startswith("start: the process ended with exit code 0 and left a result.json that cannot be ")
    assert "\n" not in result.reason
    assert len(result.reason) < 300


def test_a_result_larger_than_any_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "result.json").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    assert "it is larger than 64 MiB" in read_result(tmp_path, 0, NEEDED).reason


def test_a_whole_result_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps(GOOD))
    result = read_result(tmp_path, 0, NEEDED)
    assert (result.outcome, result.measurements, result.phases_s) == (Outcome.COMPLETE, MEASURED, {"load": 1.0})


def test_a_process_that_could_not_write_its_result_on_a_full_disk_is_not_blamed(tmp_path: Path) -> None:
    result = read_result(tmp_path, 74, NEEDED)
    assert (result.outcome, result.reason) == (Outcome.INFRASTRUCTURE, f"start: the disk is full: {tmp_path}")


def test_lines_that_announce_no_phase_are_passed_over(tmp_path: Path) -> None:
    good = '{"phase": "load", "at": 12.0, "pid": 3}'
    (tmp_path / "phases.jsonl").write_bytes(
        f'{good}\nnonsense\n{{"phase": 3}}\n\n[]\n'.encode() + b'\xff\n{"phase": "ap'
    )
    assert [begun.phase for begun in announced(tmp_path)] == ["load"]
    assert with_start({}, tmp_path, started=11.0)["start"] == 1.0
