"""Compiled code is built by several processes side by side, and is what one process would have built."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from paretune.agent.bundle import room, trust_file
from paretune.agent.trial import empty_caches, run_script, write_json
from paretune.objectives.measuring import building
from paretune.search_space import Configuration, apply_source
from support.compiling_product import write_run_files


@pytest.fixture
def trial(tmp_path: Path) -> Path:
    """A trial's folder, of a product with two shapes."""
    folder = tmp_path / "trial"
    write_run_files(folder)
    (folder / "apply.py").write_text(apply_source(Configuration.of({"torch_compile": {}})))
    shutil.copyfile(trust_file(), folder / "trust.py")
    return folder


@pytest.mark.timeout(300)
def test_two_processes_share_what_is_to_be_built(trial: Path, tmp_path: Path) -> None:
    artefacts = tmp_path / "artefacts"
    options = ["--device", "cpu", "--build", "standalone_compile", "--artefacts", str(artefacts), "--processes", "2"]
    with empty_caches() as environment:
        built = run_script(trial / "run.py", options, out=tmp_path / "out", environment=environment, timeout_s=280)
    assert (built["parts"], built["reasons"]) == (2, {})
    index = json.loads((artefacts / "index.json").read_text())
    assert sorted(part["call"]["tuple"][0]["tuple"][0]["shape"][0] for part in index["parts"]) == [1, 2]
    assert set(index) == {"schema", "way", "torch", "parts"}
    assert sorted(one.name for one in (artefacts / "code").iterdir()) == sorted(part["code"] for part in index["parts"])
    assert not artefacts.with_name("artefacts.beside").exists()
    # Each process built one, and the one that came after them none.
    said = (tmp_path / "out.log").read_text()
    assert said.count("build 1 forward of Denoiser: built") == 2
    assert "build 2" not in said


def test_what_an_interrupted_build_had_finished_is_taken_up(tmp_path: Path) -> None:
    artefacts, beside = tmp_path / "artefacts", tmp_path / "artefacts.beside"

    def left(place: Path, *parts: dict[str, Any], **more: str) -> None:
        for part in parts:
            if "failed" not in part:
                (place / "code" / part["code"]).mkdir(parents=True)
                (place / "code" / part["code"] / "code.py").write_text(part["code"])
        place.mkdir(exist_ok=True, parents=True)
        write_json(
            place / "index.json", {"schema": 1, "way": "aot_compile", "torch": "2", "parts": list(parts), **more}
        )

    left(artefacts, {"code": "a"})
    left(beside / "0", {"code": "a"}, {"code": "b"}, claims="there")
    left(beside / "1", {"code": "c"}, {"code": "d", "failed": "RuntimeError: no memory"}, claims="there")
    (beside / "1" / "code" / "draft-e").mkdir()
    (beside / "2").mkdir()
    building._take_up(beside, artefacts)
    index = json.loads((artefacts / "index.json").read_text())
    assert index == {"schema": 1, "way": "aot_compile", "torch": "2", "parts": [{"code": one} for one in "abc"]}
    assert {one.name: (one / "code.py").read_text() for one in (artefacts / "code").iterdir()} == {
        one: one for one in "abc"
    }
    assert not beside.exists()


def test_so_many_processes_as_cores_and_memory_have_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Memory:
        available = 120 * 2**30

    monkeypatch.setattr(room.os, "sched_getaffinity", lambda pid: set(range(16)))
    monkeypatch.setattr(room.psutil, "virtual_memory", lambda: Memory)
    free_gib = {"cuda": 100.0, "cuda:1": 12.0}
    monkeypatch.setattr(room, "_free_gib", lambda device: free_gib[device])
    assert room.processes_beside("cpu", 0.5) == 5
    assert room.processes_beside("cpu", 36.0) == 3
    assert room.processes_beside("cuda", 15.0) == 5
    assert room.processes_beside("cuda", 30.0) == 3
    assert room.processes_beside("cuda:1", 15.0) == 1, "one works, or fails by itself"
