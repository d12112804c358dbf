"""The files of a job at another machine, and what comes back of it."""

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from paretune.agent.measuring import ray_files
from paretune.agent.measuring.ray_files import Incoming, Outgoing, moved, packed, unpack
from paretune.agent.trial import Job


class Store:
    """An object store that counts."""

    def __init__(self) -> None:
        self.kept: list[bytes] = []
        self.fetched = 0

    def put(self, content: bytes) -> int:
        self.kept.append(content)
        return len(self.kept) - 1

    def get(self, reference: int) -> bytes:
        self.fetched += 1
        return self.kept[reference]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A job whose files lie in three folders of the launching machine."""
    here = tmp_path / "launcher"
    (here / "trial-0000" / "pictures").mkdir(parents=True)
    (here / "trial-0000" / "latents").mkdir()
    (here / "trial-0000" / "pictures" / "cat-0.png").write_bytes(b"a cat")
    (here / "trial-0000" / "latents" / "cat.safetensors").write_bytes(b"latents")
    (here / "work.py").write_text("import networks\n")
    (here / "networks.py").write_text("layers = 3\n")
    (here / "begin.png").write_bytes(b"a picture to begin with")
    workload: dict[str, Any] = {"python": str(here / "work.py"), "requests": [{"image": str(here / "begin.png")}]}
    return Job(
        folder=str(here / "trial-0001"),
        device="cpu",
        configuration={},
        apply_py="",
        workload=workload,
        plan={},
        reference_pictures=str(here / "trial-0000" / "pictures"),
        quality_assessed=True,
        technique_files=[],
        import_s=0.0,
    )


def test_a_job_finds_its_files_at_another_machine_and_each_is_sent_and_fetched_once(job: Job, tmp_path: Path) -> None:
    store = Store()
    outgoing = Outgoing(store.put)
    folders, references = outgoing.of(job)
    outgoing.of(replace(job, folder="another"))
    assert len(store.kept) == 5
    (tmp_path / "launcher").rename(tmp_path / "gone")
    incoming = Incoming(tmp_path / "place", store.get)
    for _ in range(2):
        there = moved(job, {one.root: incoming.place(one, references) for one in folders})
    assert store.fetched == 5
    assert Path(there.workload["python"]).with_name("networks.py").read_text() == "layers = 3\n"
    assert Path(there.workload["requests"][0]["image"]).read_bytes() == b"a picture to begin with"
    reference = Path(str(there.reference_pictures))
    assert (reference / "cat-0.png").read_bytes() == b"a cat"
    assert (reference.parent / "latents" / "cat.safetensors").read_bytes() == b"latents"


def test_where_the_same_files_lie_they_are_used_and_changed_ones_are_not(job: Job, tmp_path: Path) -> None:
    store = Store()
    folders, references = Outgoing(store.put).of(job)
    incoming = Incoming(tmp_path / "place", store.get)
    there = moved(job, {one.root: incoming.place(one, references) for one in folders})
    assert (there, store.fetched) == (job, 0)
    (tmp_path / "launcher" / "networks.py").write_text("layers = 40\n")
    there = moved(job, {one.root: incoming.place(one, references) for one in folders})
    assert Path(there.workload["python"]).with_name("networks.py").read_text() == "layers = 3\n"


def test_a_trials_folder_comes_back_without_what_it_compiled_and_says_where_it_was_made(tmp_path: Path) -> None:
    folder = tmp_path / "trial"
    (folder / "pictures").mkdir(parents=True)
    (folder / "compiled").mkdir()
    (folder / "compiled" / "kernel.so").write_bytes(b"\0" * 1000)
    (folder / "pictures" / "cat-0.png").write_bytes(b"a cat")
    (folder / "result.json").write_text('{"outcome": "complete"}')
    (tmp_path / "back").mkdir()
    unpack(packed(folder, "box-gpu1"), tmp_path / "back")
    assert json.loads((tmp_path / "back" / "result.json").read_text())["place"] == "box-gpu1"
    assert (tmp_path / "back" / "pictures" / "cat-0.png").read_bytes() == b"a cat"
    assert not (tmp_path / "back" / "compiled").exists()


def test_a_folder_that_is_too_large_or_reaches_outside_does_not_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "log.txt").write_text("x" * 100)
    monkeypatch.setattr(ray_files, "MOST_BYTES", 50)
    with pytest.raises(ValueError, match="over the limit"):
        packed(tmp_path, "box")
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("../outside"))
    with pytest.raises(tarfile.TarError):
        unpack(written.getvalue(), tmp_path)
