"""The report of a study that is replayed into a database: no model is run."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from paretune.agent._pictures import inline_pictures
from paretune.agent._results import Results
from paretune.agent.export import bundle_readme
from paretune.agent.report import report_html, write_report
from paretune.studies import Records, UserError
from support.browser import CHROMIUM, Browser
from support.replayed import HOSTILE, NAME, replay, run, url_of, write_pictures


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
