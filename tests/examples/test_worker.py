"""examples/worker, started for real on the CPU: what its clients see, and whoever starts it, stops it and deploys."""

import base64
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from paretune.agent.bundle import MANIFEST, entries_of, export, files_of
from paretune.agent.bundle.signing import make_keys, read_private_key, signature_of
from paretune.agent.bundle.trust import SIGNATURE
from paretune.objectives import versions
from paretune.studies import sha256
from PIL import Image
from support.launching import wait_until
from support.replayed import replay

WORKER = Path(__file__).parents[2] / "examples" / "worker"
SIDE_PX = 32
CLIENTS, REQUESTS = 8, 200
COMPILED = """
apply_to = apply

def apply(pipelines, artefacts=None, **how):
    print("told", artefacts, *sorted(how.items()), flush=True)
    apply_to(pipelines)

def counters(pipelines):
    return {"calls": 9, "missed": 2, "graphs": 1}
"""
"""Stands for compiled code, which takes long to make."""


@dataclass(frozen=True)
class Bundles:
    """Bundles of the same pipeline: "old" and "new"; "compiled", which is signed and says what its apply() was told;
    "changed", which is that one with a file that was changed after the export.
    """

    folder: Path
    model: Path
    key: Path
    """That "compiled" is signed with, its public half."""

    def link(self, name: str, place: Path) -> Path:
        """Make `place` a link to the bundle of that name, in one step, as a deployment does."""
        new = place.with_suffix(".new")
        new.symlink_to(self.folder / name)
        new.replace(place)
        return place

    def state(self, name: str) -> dict[str, str]:
        """What is in a bundle."""
        return {file: sha256(self.folder / name / file) for file in files_of(self.folder / name)}


@dataclass
class Worker:
    """A worker in a process of its own."""

    process: "subprocess.Popen[bytes]"
    log_file: Path
    tmp: Path
    gpu_processes: list[psutil.Process] = field(default_factory=list)
    url: str = ""
    # A connection for each request, as there is for the first one of every client.
    client: httpx.Client = field(
        default_factory=lambda: httpx.Client(timeout=120, limits=httpx.Limits(max_keepalive_connections=0))
    )

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def get(self, path: str) -> httpx.Response:
        return self.client.get(f"{self.url}/{path}")

    def ask(self, **order: Any) -> httpx.Response:
        return self.client.post(f"{self.url}/pictures", json={"prompt": "a cat", "seed": 3, **order})

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def answers(self) -> bool:
        """Whether it listens."""
        assert self.process.poll() is None, self.log()
        found = re.search(r"running on (http://127\.0\.0\.1:\d+)", self.log())
        self.url = found.group(1) if found else ""
        return bool(found)

    def wait_until_ready(self) -> dict[str, Any]:
        """What /readyz says then."""

        def is_ready() -> bool:
            assert self.process.poll() is None, self.log()
            return self.get("readyz").status_code == 200

        wait_until(is_ready, 120, "the worker is not ready")
        self.gpu_processes = psutil.Process(self.process.pid).children()
        known: dict[str, Any] = self.get("readyz").json()
        return known

    def wait_for(self, words: str) -> None:
        wait_until(lambda: words in self.log(), 60, f"it did not say {words!r}")

    def ended(self) -> int:
        """Its exit code, once it and its GPU process are gone."""
        code = self.process.wait(60)
        psutil.wait_procs(self.gpu_processes, timeout=30)
        assert not [one for one in self.gpu_processes if one.is_running()]
        return code


Start = Callable[..., Worker]


@pytest.fixture(scope="module")
def bundles(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    folder = tmp_path_factory.mktemp("bundles")
    results = replay(tmp_path_factory.mktemp("replayed"), model=tiny_model)
    export(results, results.trial(2), folder / "new")
    export(results, results.trial(4), folder / "old")
    key = tmp_path_factory.mktemp("keys") / "signing.pem"
    public = make_keys(key)
    shutil.copytree(folder / "new", folder / "compiled")
    (folder / "compiled" / "artefacts").mkdir()
    (folder / "compiled" / "artefacts" / "index.json").write_text("{}")
    with (folder / "compiled" / "apply.py").open("a") as file:
        file.write(COMPILED)
    manifest = json.loads((folder / "compiled" / MANIFEST).read_text())
    manifest["files"] = entries_of(folder / "compiled")
    (folder / "compiled" / MANIFEST).write_text(json.dumps(manifest))
    signature = signature_of((folder / "compiled" / MANIFEST).read_bytes(), read_private_key(key))
    (folder / "compiled" / SIGNATURE).write_bytes(signature)
    shutil.copytree(folder / "compiled", folder / "changed")
    with (folder / "changed" / "apply.py").open("a") as file:
        file.write("\n")
    return Bundles(folder, tiny_model, public)


@pytest.fixture
def start(bundles: Bundles, tmp_path: Path) -> Iterator[Start]:
    """Start a worker; it listens when this returns, and is still loading."""
    workers: list[Worker] = []

    def started(bundle: Path, *options: str) -> Worker:
        log, tmp = tmp_path / f"worker-{len(workers)}.log", tmp_path / f"tmp-{len(workers)}"
        tmp.mkdir()
        command = [sys.executable, str(WORKER / "app.py"), str(bundle), "--device", "cpu", "--port", "0"]
        # Without byte code beside the examples, which are part of the checkout.
        environment = {**os.environ, "TMPDIR": str(tmp), "PYTHONDONTWRITEBYTECODE": "1"}
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*command, "--model", f"main={bundles.model}", *options], stdout=file, stderr=file, env=environment
            )
        workers.append(Worker(process, log, tmp))
        wait_until(workers[-1].answers, 60, "the worker does not listen")
        return workers[-1]

    yield started
    for worker in workers:
        worker.process.kill()
        worker.process.wait()


def picture_of(answer: httpx.Response) -> Image.Image:
    assert answer.status_code == 200, answer.text
    (content,) = answer.json()["png_base64"]
    return Image.open(io.BytesIO(base64.b64decode(content)))


def sentence(answer: httpx.Response) -> str:
    text: str = answer.json()["detail"]
    assert text.count("\n") == 0
    return text


def test_a_worker_from_its_start_to_its_end(bundles: Bundles, start: Start, tmp_path: Path) -> None:
    """Alive while it loads, ready when every announced request was served; a bundle that cannot be served changes
    nothing; nonsense is refused; and of 200 requests of 8 clients, with a SIGTERM among them, none is lost.
    """
    link = bundles.link("compiled", tmp_path / "current")
    before = bundles.state("compiled")
    told = ("--trusted-key", str(bundles.key), "--on-miss", "eager", "--strict")
    worker = start(link, "--queue", "2", "--body-s", "1", *told)
    assert worker.get("healthz").status_code == 200
    loading = worker.get("readyz")
    assert (loading.status_code, loading.json()["ready"]) == (503, False)
    assert worker.ask().status_code == 503
    known = worker.wait_until_ready()
    assert known["bundle"] == str(bundles.folder / "compiled")
    how = f"('on_miss', 'eager') ('strict', True) ('trusted_key', '{bundles.key}')"
    assert f"told {bundles.folder / 'compiled' / 'artefacts'} {how}" in worker.log()
    assert {one["name"] for one in known["variants"]} == {"cat", "dog"}
    assert all(f"serving {name} for the first time" in worker.log() for name in ("cat", "dog"))

    a_bundle_that_cannot_be_served_does_not_take_over(worker, bundles, link)
    requests_are_checked(worker)
    made = [picture_of(worker.ask(like="dog", seed=seed)) for seed in (3, 3, 4)]
    assert made[0].size == (SIDE_PX, SIDE_PX)
    assert made[0].tobytes() == made[1].tobytes() != made[2].tobytes()
    metrics = worker.get("metrics").text
    assert re.search(r"^worker_memory_bytes [1-9]", metrics, re.MULTILINE)
    for line in (
        'worker_answers_total{code="200"} 3.0',
        'worker_gpu_seconds_count{variant="dog"} 3.0',
        "worker_latency_seconds_count 3.0",
        "worker_queue_length 0.0",
        "worker_misses 2.0",
        "worker_compilations 1.0",
        "worker_ready 1.0",
    ):
        assert line in metrics

    no_picture_is_made_for_a_client_that_has_left(worker)
    every_accepted_request_is_answered(worker)
    assert bundles.state("compiled") == before


def a_bundle_that_cannot_be_served_does_not_take_over(worker: Worker, bundles: Bundles, link: Path) -> None:
    for name, why in (("changed", "apply.py was changed after the export"), ("new", "(the signature is missing)")):
        bundles.link(name, link)
        worker.signal(signal.SIGHUP)
        worker.wait_for(f"{why}; {bundles.folder / 'compiled'} goes on")
        known = worker.get("readyz")
        assert (known.status_code, known.json()["bundle"]) == (200, str(bundles.folder / "compiled"))
        assert known.json()["last_change"].endswith(why)
    bundles.link("compiled", link)
    worker.signal(signal.SIGHUP)
    worker.wait_for("is served already")


def requests_are_checked(worker: Worker) -> None:
    served = "only what the bundle was measured with is served: cat (32 x 32 px), dog (32 x 32 px)"
    for order, code, words in (
        ({"width_px": 64}, 422, served),
        ({"like": "horse"}, 422, served),
        ({"prompt": ""}, 422, "prompt: String should have at least 1 character"),
        ({"seed": -1}, 422, "seed: Input should be greater than or equal to 0"),
        ({"seed": "3"}, 422, "seed: Input should be a valid integer"),
        ({"steps": 1000}, 422, "the body: Extra inputs are not permitted"),
    ):
        answer = worker.ask(**order)
        assert (answer.status_code, sentence(answer)[: len(words)]) == (code, words)
    assert worker.ask(prompt="a" * 20_000).status_code == 413
    # Half of a surrogate pair is no text, and cannot be sent back either.
    broken = worker.client.post(
        f"{worker.url}/pictures",
        content=b'{"prompt": "\\ud800", "\\ud800": 1}',
        headers={"Content-Type": "application/json"},
    )
    assert broken.status_code == 422
    with by_hand(worker, "{", 9) as slow:
        assert slow.recv(1000).startswith(b"HTTP/1.1 408 ")


def by_hand(worker: Worker, body: str, length: int) -> socket.socket:
    """Send a request that says it has a body of that length, and do not wait for the answer."""
    head = ("POST /pictures HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {length}")
    address = httpx.URL(worker.url)
    connection = socket.create_connection((address.host, address.port), timeout=30)
    connection.sendall("\r\n".join([*head, "", body]).encode())
    return connection


def no_picture_is_made_for_a_client_that_has_left(worker: Worker) -> None:
    body = '{"prompt": "a cat"}'
    for _ in range(3):
        by_hand(worker, body, len(body)).close()
    wait_until(lambda: 'code="499"' in worker.get("metrics").text, 30, "it made pictures for nobody")


def every_accepted_request_is_answered(worker: Worker) -> None:
    answers: Counter[str] = Counter()
    counting = threading.Lock()

    def count(answer: str) -> None:
        with counting:
            answers[answer] += 1
            if answers.total() == REQUESTS // 2:
                worker.signal(signal.SIGTERM)

    def client(number: int) -> None:
        for request in range(REQUESTS // CLIENTS):
            try:
                answer = worker.ask(like="cat", seed=100 * number + request)
            except httpx.TransportError:
                worker.wait_for("Shutting down")  # which is where it stops to listen
                count("not connected")
                continue
            count(str(answer.status_code))
            if answer.status_code == 200:
                assert picture_of(answer).size == (SIDE_PX, SIDE_PX)
            else:
                assert int(answer.headers["Retry-After"]) >= 1, answer.text
                time.sleep(0.05)

    answered_before = worker.log().count('"POST /pictures HTTP/1.1" 200')
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(client, range(CLIENTS)))
    assert worker.ended() == 0
    assert answers.total() == REQUESTS
    assert set(answers) <= {"200", "429", "503", "not connected"}
    assert answers["429"] > 0, "a queue of two, eight clients"
    waited = re.search(r"Stopping; (\d+) requests wait", worker.log())
    assert waited is not None
    assert int(waited.group(1)) > 0
    # What was answered has arrived.
    assert answers["200"] == worker.log().count('"POST /pictures HTTP/1.1" 200') - answered_before
    assert "Traceback" not in worker.log()


@pytest.mark.slow
def test_a_bundle_takes_over_between_two_requests_and_the_one_before_can_be_taken_back(
    bundles: Bundles, start: Start, tmp_path: Path
) -> None:
    link = bundles.link("old", tmp_path / "current")
    worker = start(link)
    worker.wait_until_ready()
    by_bundle = {"old": picture_of(worker.ask()).tobytes()}
    for name in ("new", "old"):
        (former,) = worker.gpu_processes
        bundles.link(name, link)
        worker.signal(signal.SIGHUP)
        made = []
        while worker.get("readyz").json()["bundle"] != str(bundles.folder / name):
            assert "goes on" not in worker.log()
            made.append(picture_of(worker.ask()).tobytes())  # all the while
            time.sleep(0.2)
        former.wait(30)
        worker.wait_until_ready()
        assert picture_of(worker.ask()).tobytes() == by_bundle.setdefault(name, picture_of(worker.ask()).tobytes())
        assert set(made) <= set(by_bundle.values())
        (bundles.folder / name).rename(bundles.folder / f"{name}-moved")  # nothing of it is needed any more
        (bundles.folder / f"{name}-moved").rename(bundles.folder / name)
    assert 'worker_bundle_changes_total{result="done"} 3.0' in worker.get("metrics").text

    (killed,) = worker.gpu_processes
    killed.kill()
    worker.wait_for("it is started again")
    known = worker.wait_until_ready()
    assert (known["bundle"], worker.gpu_processes != [killed]) == (str(bundles.folder / "old"), True)
    assert picture_of(worker.ask()).tobytes() == by_bundle["old"]
    worker.signal(signal.SIGTERM)
    assert worker.ended() == 0


@pytest.mark.slow
def test_two_workers_share_a_bundle_write_nothing_into_it_and_leave_nothing_when_they_are_killed(
    bundles: Bundles, start: Start
) -> None:
    before = bundles.state("new")
    workers = [start(bundles.folder / "new") for _ in range(2)]
    pictures = set()
    for worker in workers:
        worker.wait_until_ready()
        pictures.add(picture_of(worker.ask()).tobytes())
    assert len(pictures) == 1
    for worker in workers:
        worker.signal(signal.SIGKILL)
        assert worker.ended() == -signal.SIGKILL
        assert list(worker.tmp.iterdir()) == []
    assert bundles.state("new") == before


def test_a_worker_that_has_no_bundle_to_serve_says_so_and_ends(bundles: Bundles, start: Start, tmp_path: Path) -> None:
    for bundle, words in (
        (tmp_path / "gone", "there is no bundle (No such file or directory)"),
        (bundles.folder / "changed", "apply.py was changed after the export"),
    ):
        worker = start(bundle)
        assert worker.ended() == 1
        assert [line for line in worker.log().splitlines() if line.startswith("ERROR") and line.endswith(words)]


@pytest.mark.slow
def test_a_worker_that_is_stopped_while_it_loads_leaves_nothing_behind(bundles: Bundles, start: Start) -> None:
    worker = start(bundles.folder / "new")
    worker.wait_for("loading the pipelines")
    worker.gpu_processes = psutil.Process(worker.process.pid).children()
    worker.signal(signal.SIGTERM)
    assert worker.ended() == 0
    assert list(worker.tmp.iterdir()) == []


def test_its_image_is_built_of_its_files_and_of_tested_versions() -> None:
    pins = dict(line.split("==") for line in (WORKER / "requirements.txt").read_text().splitlines() if "==" in line)
    assert set(pins) >= {"fastapi", "uvicorn", "prometheus-client"}
    assert pins == {name: str(versions.tested_versions()[name]) for name in pins}
    dockerfile = (WORKER / "Dockerfile").read_text()
    copied = {name for line in re.findall("^COPY (.*) ", dockerfile, re.MULTILINE) for name in line.split()}
    assert copied == {"environment.txt", "requirements.txt", *(file.name for file in WORKER.glob("*.py"))}
    service = yaml.safe_load((WORKER / "compose.yaml").read_text())["services"]["worker"]
    options = {word for word in service["command"] if word.startswith("--")}
    assert options
    assert all(f'"{option}"' in (WORKER / "app.py").read_text() for option in options)


def test_it_can_be_copied_because_it_imports_nothing_of_paretune() -> None:
    for file in WORKER.glob("*.py"):
        assert not re.search(r"^\s*(import|from) paretune", file.read_text(), re.MULTILINE)
