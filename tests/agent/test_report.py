"""The report of a study that is replayed into a database: no model is run."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy
import pytest
from paretune.agent._pictures import inline_pictures
from paretune.agent._results import TORCH_COMPILE, Results
from paretune.agent.report import report_html, write_report
from paretune.objectives.fingerprint import PACKAGES
from paretune.search_space import Configuration
from paretune.studies import MeasurementRecord, Outcome, Records, StudyRecord, UserError, parse_study
from PIL import Image
from support.browser import CHROMIUM, Browser

HOSTILE = "a cat</script><script>alert(1)</script> & \"quoted\" <img src=http://example.com/x onerror='alert(2)'>"
FINGERPRINT = {
    "schema_version": 1,
    "device_kind": "cpu",
    "device_name": "Example <CPU> 9000",
    "compute_capability": None,
    "memory_gib": None,
    "driver": None,
    "cuda": None,
    "python": "3.11.9",
    "platform": "Linux-x86_64",
    "cpu_model": "Example <CPU> 9000",
    "cpu_threads": 4,
    "packages": {**dict.fromkeys(PACKAGES), "torch": "2.13.0"},
}
CACHED = Configuration.of({"channels_last": {}, "deepcache": {"interval": 3, "branch": 0}})
SLICED = Configuration.of({"vae_slicing": {}})
FUSED = Configuration.of({"fused_qkv": {}})


def quality(verdict: str, drift: float, psnr_db: float | None) -> dict[str, Any]:
    metrics = {
        "max_abs_difference_lsb": 0.0 if psnr_db is None else 9.0,
        "psnr_db": psnr_db,
        "worst_tile_psnr_db": psnr_db,
        "ssim": 0.98,
        "delta_e_mean": 0.71,
    }
    picture = {"metrics": metrics, "verdict": verdict, "drift": drift, "flags": [], "broken": None}
    pictures = [{"file": f"{name}-0.png", "request": name, **picture} for name in ("cat", "dog")]
    return {"n": 2, "verdict": verdict, "drift": drift, "pictures": pictures, "first_broken": None}


def measured(latency_ms: float, memory_gib: float, verdict: str, drift: float | None, psnr_db: float | None) -> Any:
    shape = {
        "requests": ["cat", "dog"],
        "weight": 2.0,
        "n": 5,
        "median_ms": latency_ms,
        "min_ms": latency_ms * 0.97,
        "max_ms": latency_ms * 1.04,
    }
    assessed = drift is not None
    return {
        "latency_ms": latency_ms,
        "latency": [shape],
        "peak_vram_gib": memory_gib,
        "memory": {"source": "resident-set"},
        "cold_start_s": 5.5,
        "repeat_max_difference": 0.0,
        "quality": quality(verdict, drift, psnr_db) if assessed else {"verdict": "not-assessed", "pictures": []},
        "drift": drift,
    }


def replay(folder: Path, *, assessed: bool = True, side_px: int = 32) -> Results:
    """A study with a reference, a torch.compile, a winner, one that breaks the limit, one beaten and one failure."""
    pipeline = {"class": "StableDiffusionXLPipeline", "model": "someone/model"}
    if not assessed:
        (folder / "config").mkdir()
        (folder / "config" / "model_index.json").write_text("{}")
        pipeline |= {"weights": "random", "config": "config"}
    size = {"width_px": side_px, "height_px": side_px, "steps": 4}
    requests = [{"name": "cat", "prompt": HOSTILE, **size}, {"name": "dog", "prompt": "a dog", **size}]
    data = {
        "schema": 1,
        "name": "replayed",
        "description": "Cats & <dogs>",
        "workload": {"pipelines": {"main": pipeline}, "requests": requests},
        "limits": {"verdict": "near-lossless"},
    }
    study = parse_study(data, "study.yaml", folder)
    files = folder / "files" / "replayed"

    def record(number: int, configuration: Configuration, outcome: Outcome, **known: Any) -> MeasurementRecord:
        return MeasurementRecord(
            schema_version=1,
            apply_py="",
            study="replayed",
            trial=number,
            workload_key="w",
            configuration_key=configuration.key,
            configuration=configuration.to_dict(),
            fingerprint_key="f",
            fingerprint=FINGERPRINT,
            outcome=outcome,
            reason=known.get("reason", ""),
            log_tail=known.get("log_tail", ""),
            measurements=known.get("measurements", {}),
            phases_s={"start": 0.1, "load": 1.25, **({"measure": 7.5} if "measurements" in known else {})},
            finished_at="2026-05-04T13:09:00+00:00",
        )

    def complete(number: int, configuration: Configuration, *figures: Any) -> MeasurementRecord:
        if not assessed:
            figures = (*figures[:2], "not-assessed", None, None)
        write_pictures(files / f"trial-{number:04d}" / "pictures", number, side_px)
        return record(number, configuration, Outcome.COMPLETE, measurements=measured(*figures))

    records = Records(f"sqlite:///{folder / 'paretune.db'}")
    records.add_study(
        StudyRecord(
            name="replayed",
            import_s=5.0,
            schema_version=1,
            created_at="2026-05-04T13:07:00+00:00",
            study=study.model_dump(by_alias=True, mode="json"),
            workload_key="w",
            fingerprint=FINGERPRINT,
            files=str(files),
            space={},
            left_out={"sdpa_kernel.unet=cudnn": "cudnn attention needs a CUDA device <here>"},
            pipelines={},
        ),
        complete(0, Configuration(), 1000.0, 2.0, "bit-exact", 0.0, None),
    )
    records.add_measurement(complete(1, TORCH_COMPILE, 800.0, 2.5, "imperceptible", 0.4, 47.0))
    records.add_measurement(complete(2, CACHED, 400.0, 2.1, "near-lossless", 1.62, 36.2))
    faster = Configuration.of({"deepcache": {"interval": 5, "branch": 0}})
    records.add_measurement(complete(3, faster, 300.0, 2.1, "visible", 2.4, 21.0))
    records.add_measurement(complete(4, SLICED, 1200.0, 2.2, "bit-exact", 0.0, None))
    log = "Traceback <most recent call last>\nRuntimeError: it broke"
    records.add_measurement(record(5, FUSED, Outcome.APPLY_ERROR, reason="apply: it <broke>", log_tail=log))
    return Results(records, "replayed")


def write_pictures(folder: Path, number: int, side_px: int) -> None:
    folder.mkdir(parents=True)
    noise = numpy.random.default_rng(0).integers(0, 200, (side_px, side_px, 3), dtype=numpy.uint8)
    for name in ("cat", "dog"):
        Image.fromarray(noise + number).save(folder / f"{name}-0.png")


class _Page(HTMLParser):
    """What the page refers to, its text outside scripts and styles, and its elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._inside = ""
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag
        self.tags.append((tag, dict(attrs)))
        self.references += [value for name, value in attrs if name in ("src", "href", "srcset", "action") and value]

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside not in ("script", "style"):
            self.words.append(data)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return replay(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def page(results: Results) -> _Page:
    return _Page(report_html(results))


def test_the_gain_and_the_three_rows_come_first(page: _Page) -> None:
    gain = page.text.index("2.50 times as fast as the reference (400 ms against 1.00 s), 2.00 times as fast as torch")
    assert gain < page.text.index("Pareto front", gain)
    for words in ("n=5, 388 ms to 416 ms", "1.25×", "2.50×", "drift 1.62", "resident set"):
        assert words in page.text


def test_every_technique_is_shown_with_every_parameter(page: _Page) -> None:
    for words in ("region=whole", "mode=default", "vae_decoder=False", "interval=3", "branch=0", "vae_slicing"):
        assert words in page.text.replace("\u200b", "")


def test_a_broken_limit_is_named(page: _Page) -> None:
    assert "pictures are visible, the limit is near-lossless" in page.text


def test_failures_have_outcome_reason_and_log(page: _Page) -> None:
    failures = page.text[page.text.index("Failures", page.text.index("Where the time")) :]
    for words in ("Trial 5", "apply_error", "apply: it <broke>", "RuntimeError: it broke", "fused_qkv"):
        assert words in failures


def test_what_was_left_out_the_machine_and_the_study_are_there(page: _Page) -> None:
    for words in (
        "sdpa_kernel.unet=cudnn",
        "cudnn attention needs a CUDA device <here>",
        "Example <CPU> 9000, 4 threads used",
        "2.13.0",
        "class: StableDiffusionXLPipeline",
        "no perceptual model",
        "2026-05-04 13:07 UTC",
    ):
        assert words in page.text


def test_the_phases_of_a_trial_are_split(page: _Page) -> None:
    assert "0 8.8 0.10 1.2 7.5 complete" in page.text


def test_pictures_stand_beside_the_reference_with_their_captions(page: _Page) -> None:
    images = [attributes for tag, attributes in page.tags if tag == "img" and attributes.get("src")]
    # The front is trials 0, 1 and 2; 3 is the fastest of all; 4 is beaten.
    assert [image["alt"] for image in images[4:]] == [
        "reference, request dog: a dog",
        "best, trial 2, request dog: a dog",
        "trial 1, request dog: a dog",
        "trial 3, breaks a limit, request dog: a dog",
    ]
    assert "PSNR 36.2 dB, worst tile 36.2 dB, SSIM 0.980, ΔE00 0.71" in page.text


def test_the_page_loads_nothing(page: _Page) -> None:
    assert page.references
    assert all(reference.startswith(("data:image/", "#")) for reference in page.references)
    policy = next(a for tag, a in page.tags if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy")
    assert str(policy["content"]).startswith("default-src 'none'")


def test_hostile_names_stay_text(results: Results, page: _Page) -> None:
    assert HOSTILE in page.text
    assert "<dogs>" in page.text
    assert [tag for tag, _ in page.tags].count("script") == 3
    assert not [attributes for _, attributes in page.tags if "onerror" in attributes]


def test_random_weights_are_never_judged(tmp_path: Path) -> None:
    page = _Page(report_html(replay(tmp_path, assessed=False)))
    assert page.text.count("not assessed (random weights)") >= 6
    assert not [attributes for tag, attributes in page.tags if tag == "img" and attributes.get("src")]
    for word in ("bit-exact", "imperceptible", "drift of the worst picture"):
        assert word not in page.text
    assert not re.search(r"drift \d", page.text)


def test_a_gain_within_the_noise_is_called_so(page: _Page, tmp_path: Path) -> None:
    assert "may be noise" not in page.text
    assert "something else probably ran" not in page.text
    results = replay(tmp_path)
    results.reference.measurements["latency"][0].update(min_ms=390.0, max_ms=3000.0)
    text = _Page(report_html(results)).text
    assert "The timed calls of the best configuration and of the reference overlap" in text
    assert "more than 1.5 times as long as the fastest in trial 0" in text


def test_a_study_whose_reference_is_the_best(tmp_path: Path) -> None:
    results = replay(tmp_path)
    results.trials = [trial for trial in results.trials if trial.number in (0, 3, 5)]
    text = _Page(report_html(results)).text
    assert "best trial 0 The reference itself: nothing faster keeps the study's limits." in text
    assert "torch.compile Not measured in this study." in text


def test_a_report_replaces_an_earlier_one(results: Results, tmp_path: Path) -> None:
    file = write_report(results, tmp_path / "new" / "folder")
    file.write_text("old")
    assert write_report(results, tmp_path / "new" / "folder") == file
    assert file.read_text().startswith("<!doctype html>")
    assert [path.name for path in file.parent.iterdir()] == ["index.html"]


def test_a_folder_that_cannot_be_written_is_one_sentence(results: Results, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_report(results, tmp_path / "file")


def test_pictures_that_are_gone_are_said_to_be(tmp_path: Path) -> None:
    results = replay(tmp_path)
    (tmp_path / "files").rename(tmp_path / "elsewhere")
    assert "The pictures are not where the study left them" in _Page(report_html(results)).text


def test_large_pictures_are_downscaled_alike(tmp_path: Path) -> None:
    write_pictures(tmp_path / "pictures", 0, 1024)
    files = sorted((tmp_path / "pictures").glob("*.png"))
    assert inline_pictures(files).longest_side_px is None
    inlined = inline_pictures(files, most_bytes=200_000)
    assert inlined.longest_side_px is not None
    assert sum(len(uri) for uri in inlined.uris.values()) < 280_000
    assert all(uri.startswith("data:image/webp;base64,") for uri in inlined.uris.values())


def test_a_cut_off_picture_is_left_out(tmp_path: Path) -> None:
    write_pictures(tmp_path / "pictures", 0, 64)
    cut = tmp_path / "pictures" / "cat-0.png"
    cut.write_bytes(cut.read_bytes()[:3000])
    assert [file.name for file in inline_pictures((tmp_path / "pictures").iterdir()).uris] == ["dog-0.png"]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_in_a_browser(results: Results, tmp_path: Path) -> None:
    file = write_report(results, tmp_path)
    with Browser(width_px=390, height_px=844, scheme="dark") as browser:
        browser.open(file.as_uri())
        browser.wait_for("document.querySelectorAll('.plot .points path.point').length >= 10")
        assert browser.evaluate("document.documentElement.scrollWidth") == 390
        assert "near-lossless" in browser.evaluate("document.querySelector('#plot-drift').textContent")

        first = "document.querySelector('#all tbody tr td').textContent"
        assert browser.evaluate(first) == "3"
        browser.evaluate("document.querySelectorAll('#all th button')[2].click()")
        assert browser.evaluate(first) == "4"

        browser.evaluate("document.querySelector('.card button').click()")
        assert browser.evaluate("document.querySelector('#viewer').open")
        browser.evaluate("document.querySelector('[data-step=\"1\"]').click()")
        assert "best, trial 2" in browser.evaluate("document.querySelector('#viewer p').textContent")
        assert browser.evaluate("document.querySelector('#viewer img').className") == "pixelated"

        assert browser.console == []
        assert [url for url in browser.requests if not url.startswith(("file:", "data:", "blob:"))] == []
