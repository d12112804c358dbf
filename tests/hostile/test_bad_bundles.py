"""What people may hand to `verify` in place of a bundle: one sentence that names the file, exit code 2, within seconds.

Each case is a change of a bundle that was exported from a replayed study. Where the point lies behind the manifest, the
manifest is written anew, as a forger would: then what the file holds is all that speaks against it.
"""

import json
import os
import random
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import pytest
from paretune.agent.bundle import MANIFEST, entries_of, export
from paretune.agent.cli import main
from paretune.studies import UserError
from PIL import Image
from support.replayed import replay

SECONDS = 20
"""Nothing here takes one; a case that waits for the other end of a pipe would wait forever."""
EVIDENCE, WORKLOAD = "evidence/measurements.json", "check/workload.json"
PICTURE = "evidence/winner/cat-0.png"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("replayed")
    results = replay(folder)
    return export(results, results.trial(2), folder / "bundle")


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


@pytest.fixture(autouse=True)
def within_seconds() -> Iterator[None]:
    def too_long(*_: object) -> None:
        raise TimeoutError(f"it took longer than {SECONDS} s")

    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)


def sign(bundle: Path) -> None:
    """Write what the manifest says of the files as they are now."""
    manifest = json.loads((bundle / MANIFEST).read_text())
    (bundle / MANIFEST).write_text(json.dumps({**manifest, "files": entries_of(bundle)}))


def verified(
    bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *also: str
) -> tuple[str, str]:
    """The one sentence of the refusal, and what was printed before it."""
    monkeypatch.setattr(sys, "argv", ["paretune", "verify", str(bundle), *also])
    monkeypatch.setenv("COLUMNS", "300")
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr()
    assert end.value.code == 2, (said.out, said.err)
    assert "Traceback" not in said.out + said.err
    (line,) = said.err.splitlines()
    return line.removeprefix("error: "), said.out


# --- the folder


def replace(path: Path, make: Callable[[Path], Any]) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    make(path)


def many_files(bundle: Path) -> None:
    (bundle / "extra").mkdir()
    for number in range(20_001):
        (bundle / "extra" / f"{number}").touch()


def deep_folders(bundle: Path) -> None:
    """Deeper than a path may be long."""
    here = os.open(bundle, os.O_RDONLY)
    for _ in range(50):
        os.mkdir("d" * 200, dir_fd=here)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def byte_code(bundle: Path) -> None:
    (bundle / "__pycache__").mkdir()
    (bundle / "__pycache__" / "apply.cpython-311.pyc").write_bytes(b"\0" * 64)


FOLDERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a link to a file beside it": (lambda b: (b / "more").symlink_to("apply.py"), "more is a link"),
    "a link in place of apply.py": (
        lambda b: replace(b / "apply.py", lambda p: p.symlink_to("/etc/passwd")),
        "apply.py is a link",
    ),
    "a dangling link": (lambda b: (b / "x").symlink_to("nowhere"), "x is a link"),
    "a loop of links": (lambda b: (b / "check" / "x").symlink_to("x"), "check/x is a link"),
    "a link to its own folder": (lambda b: (b / "check" / "x").symlink_to(".."), "check/x is a link"),
    "a link in place of a folder": (
        lambda b: (shutil.copytree(b / "check", b.parent / "c"), replace(b / "check", lambda p: p.symlink_to("../c"))),
        "check is a link",
    ),
    "a pipe": (lambda b: os.mkfifo(b / "x"), "x is neither a file nor a folder"),
    "a pipe in place of apply.py": (
        lambda b: replace(b / "apply.py", os.mkfifo),
        "apply.py is neither a file nor a folder",
    ),
    "a pipe in place of the manifest": (lambda b: replace(b / MANIFEST, os.mkfifo), "it has no manifest.json"),
    "a folder in place of the manifest": (lambda b: replace(b / MANIFEST, Path.mkdir), "it has no manifest.json"),
    "a folder in place of apply.py": (lambda b: replace(b / "apply.py", Path.mkdir), "apply.py is missing"),
    "a link in place of the manifest": (
        lambda b: (shutil.move(b / MANIFEST, b.parent / "m"), (b / MANIFEST).symlink_to("../m")),
        "it has no manifest.json",
    ),
    "byte code": (byte_code, "delete every __pycache__ folder"),
    "an extension module": (lambda b: (b / "apply.cpython-311-x86_64-linux-gnu.so").touch(), "is not part of"),
    "a hidden file": (lambda b: (b / "check" / ".env").touch(), "check/.env is not part of the bundle"),
    "a name with a line break": (lambda b: (b / "a\nb").touch(), "'a\\nb' is not part of the bundle"),
    "a name that is no text": (
        lambda b: Path(os.fsdecode(os.fsencode(b) + b"/\xff\xfe")).touch(),
        "'\\udcff\\udcfe' is not part of the bundle",
    ),
    "too many files": (many_files, "holds more than 10000 files"),
    "folders without end": (deep_folders, "cannot be read (File name too long)"),
    "a larger file": (lambda b: (b / "apply.py").open("a").write("#"), "apply.py was changed after the export"),
    "a larger file by far": (lambda b: os.truncate(b / "apply.py", 1 << 40), "apply.py was changed after the export"),
    "a shorter file": (lambda b: os.truncate(b / "README.md", 10), "README.md was changed after the export"),
    "another file of the same size": (
        lambda b: (b / "README.md").write_bytes(bytes(reversed((b / "README.md").read_bytes()))),
        "README.md was changed after the export",
    ),
    "a missing picture": (lambda b: (b / PICTURE).unlink(), f"{PICTURE} is missing"),
    "nothing": (lambda b: replace(b, lambda p: None), "it has no manifest.json"),
    "an empty folder": (lambda b: replace(b, Path.mkdir), "it has no manifest.json"),
    "a file": (lambda b: replace(b, Path.touch), "it has no manifest.json"),
    "a link to itself": (lambda b: replace(b, lambda p: p.symlink_to(p)), "it has no manifest.json"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_only_the_listed_files_are_a_bundle(
    case: str, bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    change, words = FOLDERS[case]
    change(bundle)
    started = time.monotonic()
    assert words in verified(bundle, capsys, monkeypatch)[0]
    assert time.monotonic() - started < SECONDS


def test_a_folders_name_that_is_too_long(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "File name too long" in verified(tmp_path / ("b" * 300), capsys, monkeypatch)[0]


# --- what is in the files


def deep(opening: str, closing: str) -> str:
    return opening * 100_000 + closing * 100_000


def black_of(size: tuple[int, int]) -> Callable[[Path], Any]:
    return lambda file: Image.new("1", size).save(file, format="PNG")


CONTENTS: dict[str, tuple[str, str | bytes | Callable[[Path], Any], str]] = {
    **{
        f"{file}: {what}": (file, text, f"{file} is damaged: export the bundle again")
        for file in (MANIFEST, EVIDENCE, WORKLOAD)
        for what, text in {
            "empty": "",
            "blank": " \n",
            "half": '{"schema": 4,',
            "no JSON": "schema: 4",
            "not UTF-8": b"\xff\xfe{}",
            "a list": "[]",
            "a number": "4",
            "a text": '"x"',
            "null": "null",
            "no keys": "{}",
            "lists in lists": deep("[", "]"),
            "mappings in mappings": deep('{"a":', "}"),
            "a number without end": "9" * 10_000,
            "a picture": b"\x89PNG\r\n\x1a\n",
        }.items()
    },
    "a key twice": (
        MANIFEST,
        lambda p: p.write_text(p.read_text().replace('"study"', '"study": "another", "study"', 1)),
        "is damaged: export the bundle again (it has a key twice)",
    ),
    "the manifest of an older version": (MANIFEST, '{"schema": 3, "sha256": {}}', "has schema 3; this version reads 4"),
    "the manifest of a newer version": (MANIFEST, '{"schema": 5}', "has schema 5; this version reads 4"),
    "a manifest of 65 MiB": (MANIFEST, b" " * (65 << 20), "is larger than 65536 KiB"),
    "evidence of 65 MiB": (EVIDENCE, b" " * (65 << 20), "is larger than 65536 KiB"),
    "an empty picture": (PICTURE, "", "(it is not a picture)"),
    "a picture that is a text": (PICTURE, "cat", "(it is not a picture)"),
    "a picture of no known kind": (PICTURE, b"\x89PNG\r\n\x1a\n" + b"\0" * 100, "(it is not a picture)"),
    "half a picture": (PICTURE, lambda p: os.truncate(p, p.stat().st_size // 2), "(it is not a picture)"),
    "a JPEG": (PICTURE, lambda p: Image.new("RGB", (8, 8)).save(p, format="JPEG"), "(it is not a picture)"),
    "a picture that unpacks to 400 MB": (PICTURE, black_of((20_000, 20_000)), "is damaged"),
    "a picture without a number": ("evidence/winner/cat.png", lambda p: Image.new("RGB", (8, 8)).save(p), "cat-0.png"),
    "a picture with a minus": ("evidence/winner/cat--1.svg", "x", "is not called as a picture is"),
    "a configuration that is empty": ("configuration.yaml", "", "is damaged"),
    "a configuration that is no YAML": ("configuration.yaml", "a: [", "(it is not YAML)"),
    "a configuration of deep lists": ("configuration.yaml", "[" * 5_000, "(it is nested too deeply)"),
    "a configuration of 1 MiB": ("configuration.yaml", "#" * (1 << 20), "is larger than"),
    "a configuration that runs Python": ("configuration.yaml", "!!python/object/apply:os.system ['x']", "not YAML"),
    "a configuration without end": (
        "configuration.yaml",
        "\n".join(["a0: &a0 [x]", *(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 10)}]" for n in range(20))]),
        "(it has aliases)",
    ),
}


@pytest.mark.parametrize("case", CONTENTS)
def test_what_a_file_holds_is_checked_before_anything_runs(
    case: str, bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, content, words = CONTENTS[case]
    if callable(content):
        content(bundle / file)
    else:
        (bundle / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    if file != MANIFEST:
        sign(bundle)
    assert words in verified(bundle, capsys, monkeypatch)[0]


# --- one value after the other, generated

DROPPED = object()
TEXT, NUMBER, COUNT, TABLE, LIST, CHOICE, OTHER = "text", "number", "count", "table", "list", "choice", "other"
WRONG: dict[str, tuple[Any, ...]] = {
    TEXT: (DROPPED, None, 5, [], {}),
    NUMBER: (DROPPED, None, "x", [], {}, float("nan"), float("inf"), -1, 1e300),
    COUNT: (DROPPED, None, "x", [], {}),
    TABLE: (DROPPED, None, 5, "x", [1]),
    LIST: (DROPPED, None, 5, "x", {}, [1], [None]),
    CHOICE: (DROPPED, None, 5, "x", []),
    OTHER: (5, "x", [], {"floors": 1}),
}
"""What cannot stand in place of each kind of value."""
VALUES: dict[str, dict[str, str]] = {
    MANIFEST: {
        **{"schema": CHOICE, "created_at": TEXT, "study": TEXT, "trial": NUMBER, "configuration_key": TEXT},
        **{"confirmed": COUNT, "figures": TABLE, "fingerprint": TABLE, "files": TABLE},
        **{"fingerprint.device_kind": CHOICE, "fingerprint.packages": TABLE, "fingerprint.cpu_threads": COUNT},
        **{"files.apply.py": TABLE, "files.apply.py|sha256": CHOICE, "files.apply.py|size_bytes": NUMBER},
    },
    EVIDENCE: {
        **{"schema": CHOICE, "measurement": TABLE, "trial": TABLE, "trial|figures": TABLE, "noise_floor": OTHER},
        **{f"measurement|{name}": NUMBER for name in ("calls", "most_calls", "most_seconds", "warm_up_calls")},
        **{"noise_floor|floors": TABLE, "noise_floor|processes": NUMBER, "noise_floor|floors|latency_ms": COUNT},
        **{"trial|figures|latency_ms": NUMBER, "trial|figures|peak_vram_gib": NUMBER},
        **{"trial|measurements": TABLE, "trial|measurements|quality": TABLE},
        **{"trial|measurements|quality|verdict": CHOICE},
    },
    WORKLOAD: {
        **{"schema": CHOICE, "requests": LIST, "requests|0": TABLE, "requests|0|prompt": TEXT, "pipelines": OTHER},
        **{"requests|0|width_px": NUMBER, "requests|0|steps": NUMBER, "pipelines|main": TABLE},
        **{"pipelines|main|class": TEXT, "pipelines|main|model": TEXT, "pipelines|main|weights": CHOICE},
    },
}
MAY_BE_LEFT_OUT = {"noise_floor|floors|latency_ms", "pipelines|main|weights", "requests|0"}
ALSO_WRONG = [
    *((EVIDENCE, f"trial|figures|{name}", wrong) for name in ("latency_ms", "peak_vram_gib") for wrong in (0, True)),
    *((MANIFEST, "schema", wrong) for wrong in (True, 4.5, "4")),
    *((MANIFEST, f"files|{name}", {"sha256": "0" * 64, "size_bytes": 0}) for name in ("/etc/passwd", "../x", "a//b")),
    *((MANIFEST, f"files|{name}", {"sha256": "0" * 64, "size_bytes": 0}) for name in ("", ".", "./apply.py", "a\0b")),
    (MANIFEST, "files|apply.py|size_bytes", 1 << 50),
    (MANIFEST, "fingerprint|unknown", 1),
    (WORKLOAD, "requests", []),
    (WORKLOAD, "python", "own/x.py"),
    (WORKLOAD, "pipelines|main|digest", "../../etc"),
    (WORKLOAD, "pipelines|main|config", "/etc"),
    (WORKLOAD, "pipelines|main|config", "../../x"),
    (WORKLOAD, "unknown", 1),
]


def generated() -> list[tuple[str, str, Any]]:
    return ALSO_WRONG + [
        (file, key, wrong)
        for file, values in VALUES.items()
        for key, kind in values.items()
        for wrong in WRONG[kind]
        if not (wrong is DROPPED and key in MAY_BE_LEFT_OUT)
    ]


def change(bundle: Path, file: str, key: str, wrong: Any) -> None:
    """Put a wrong value in place of one, or drop it; `key` is a path with bars, or with dots where no key has one."""
    data = json.loads((bundle / file).read_text())
    *parents, last = key.replace("files.apply.py", "files|apply.py").replace("fingerprint.", "fingerprint|").split("|")
    node = data
    for part in parents:
        node = node[int(part) if isinstance(node, list) else part]
    place = int(last) if isinstance(node, list) else last
    if wrong is DROPPED:
        del node[place]
    else:
        node[place] = wrong
    (bundle / file).write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("file", "key", "wrong"),
    generated(),
    ids=lambda value: "dropped" if value is DROPPED else re.sub(r"\W+", "-", str(value))[:40] or "empty",
)
def test_no_value_of_a_wrong_kind_gets_through(
    file: str,
    key: str,
    wrong: Any,
    bundle: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    change(bundle, file, key, wrong)
    if file != MANIFEST:
        sign(bundle)
    sentence = verified(bundle, capsys, monkeypatch)[0]
    assert file in sentence
    assert "could not be run" not in sentence


@pytest.mark.parametrize("file", [MANIFEST, EVIDENCE, WORKLOAD])
def test_files_that_were_cut_short_anywhere(
    file: str, bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, chance = (bundle / file).read_bytes(), random.Random(0)
    for length in sorted(chance.randrange(len(whole) - 2) for _ in range(12)):
        (bundle / file).write_bytes(whole[:length])
        if file != MANIFEST:
            sign(bundle)
        assert f"{file} is damaged" in verified(bundle, capsys, monkeypatch)[0]


@pytest.mark.parametrize(
    "name",
    [
        f"__pycache__/apply.{sys.implementation.cache_tag}.pyc",
        "apply.pyc",
        "apply.so",
        "apply/__init__.py",
        f"check/measuring/latency{EXTENSION_SUFFIXES[0]}",
        f"check/measuring/__pycache__/latency.{sys.implementation.cache_tag}.pyc",
    ],
)
def test_a_manifest_may_list_nothing_that_python_runs_instead_of_what_people_read(
    name: str, bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (bundle / name).parent.mkdir(exist_ok=True)
    (bundle / name).write_bytes(b"")
    sign(bundle)
    sentence = verified(bundle, capsys, monkeypatch)[0]
    assert f"python would run '{name}' instead of" in sentence


@pytest.mark.parametrize("file", ["apply.py", "check/run.py", WORKLOAD, EVIDENCE, "configuration.yaml"])
def test_a_manifest_that_leaves_out_what_is_needed(
    file: str, bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (bundle / file).unlink()
    sign(bundle)
    assert f"{file} is not listed" in verified(bundle, capsys, monkeypatch)[0]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("raise SystemExit(3)", "could not be run"),
        ("pass", "could not be run: its result.json cannot be read"),
        ("put('[]')", "could not be run: its result.json cannot be read"),
        ("put('{')", "could not be run: its result.json cannot be read"),
        ('put(\'{"latency_ms": 0, "peak_vram_gib": 1}\')', "what it measured is no latency and memory"),
        ('put(\'{"latency_ms": 1, "peak_vram_gib": 1}\')', "could not be run: its pictures cannot be compared"),
    ],
)
def test_a_check_that_leaves_nonsense(
    script: str, words: str, bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put = "import pathlib, sys\nout = pathlib.Path(sys.argv[sys.argv.index('--out') + 1])\nout.mkdir()\n"
    put += "def put(text):\n    (out / 'result.json').write_text(text)\n"
    (bundle / "check" / "run.py").write_text(f"{put}{script}\n")
    sign(bundle)
    assert words in verified(bundle, capsys, monkeypatch)[0]


@pytest.mark.parametrize("text", ["main", "main=", "=x", "other=/", "main=/nowhere"])
def test_a_model_that_is_not_what_the_bundle_needs(
    text: str, bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert verified(bundle, capsys, monkeypatch, "--model", text)[0].startswith(f"--model {text}: ")


def no_picture(file: Path) -> None:
    file.write_text("no picture")


def a_part_of_one(file: Path) -> None:
    os.truncate(file, 60)


@pytest.mark.parametrize("spoil", [no_picture, a_part_of_one, lambda file: replace(file, os.mkfifo)])
@pytest.mark.parametrize("trial", [0, 2], ids=["the reference's", "the trial's"])
def test_evidence_that_verify_would_refuse_is_not_exported(
    trial: int, spoil: Callable[[Path], None], tmp_path: Path
) -> None:
    results = replay(tmp_path)
    picture = results.trial(trial).pictures()[0]
    spoil(picture)
    with pytest.raises(UserError, match=f"{picture} is not there, or no picture any more"):
        export(results, results.trial(2), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("trial", [0, 2], ids=["the reference's", "the trial's"])
def test_evidence_of_another_size_is_not_exported(trial: int, tmp_path: Path) -> None:
    results = replay(tmp_path)
    picture = results.trial(trial).pictures()[0]
    with Image.open(picture) as judged:
        other = judged.resize((judged.width * 2, judged.height))
    other.save(picture)
    with pytest.raises(UserError, match=r" px, and the reference's \d+ x \d+: it is not the picture that was judged"):
        export(results, results.trial(2), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
