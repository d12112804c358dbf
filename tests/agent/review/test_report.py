"""The report of a study that is replayed into a database: no model is run."""

import re
from pathlib import Path

import pytest
from paretune.agent.bundle import bundle_readme
from paretune.agent.results import Results
from paretune.agent.review import write_report
from paretune.agent.review.pictures import inline_pictures
from paretune.agent.review.report import report_html
from paretune.studies import Outcome, RunKind, UserError
from support.browser import CHROMIUM, Browser
from support.page import Page
from support.replayed import HOSTILE, add, replay, run, timed_again, write_pictures


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return replay(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def page(results: Results) -> Page:
    return Page(report_html(results))


def test_the_gain_and_the_three_rows_come_first(page: Page) -> None:
    gain = page.text.index(
        "2.50 times as fast as the reference (401 ms against 1.00 s; 95 % interval 2.48 to 2.52 in 6 blocks"
    )
    assert gain < page.text.index("Pareto front", gain)
    for words in (
        "as a trial: 400 ms n=5, 388 ms to 416 ms",
        "1.25×",
        "2.50×",
        "drift 1.62 on 4 pictures",
        "resident set",
    ):
        assert words in page.text


def test_every_technique_is_shown_with_every_parameter(page: Page) -> None:
    for words in ("region=whole", "mode=default", "recipe=none", "interval=3", "branch=0", "vae_slicing"):
        assert words in page.text.replace("\u200b", "")


def test_a_broken_limit_is_named(page: Page) -> None:
    assert "pictures are visible, the limit is near-lossless" in page.text


def test_failures_have_outcome_reason_and_log(page: Page) -> None:
    failures = page.text[page.text.index("Failures", page.text.index("Where the time")) :]
    for words in ("Trial 5", "apply_error", "apply: it <broke>", "RuntimeError: it broke", "fused_qkv"):
        assert words in failures


def test_what_was_left_out_the_machine_and_the_study_are_there(page: Page) -> None:
    for words in (
        "sdpa_kernel.unet=cudnn",
        "cudnn attention needs a CUDA device <here>",
        "Example <CPU> 9000, 4 threads used",
        "2.13.0",
        "class: StableDiffusionXLPipeline",
        "No metric replaces looking",
        "2026-05-04 13:07 UTC",
    ):
        assert words in page.text


def test_the_phases_of_a_trial_are_split(page: Page) -> None:
    assert "0 8.8 0.10 1.2 7.5 complete" in page.text


def test_pictures_stand_beside_the_reference_with_their_captions(page: Page) -> None:
    images = [attributes for tag, attributes in page.tags if tag == "img" and attributes.get("src")]
    # The front is trials 0, 1, 2 and 7; 3 is the fastest of all; 4 is beaten.
    assert [image["alt"] for image in images[5:10]] == [
        "reference, request dog: a dog",
        "best, trial 2, request dog: a dog",
        "trial 7, request dog: a dog",
        "trial 1, request dog: a dog",
        "trial 3, breaks a limit, request dog: a dog",
    ]
    assert "SSIMULACRA2 84.2, PSNR 36.2 dB, worst tile 36.2 dB, SSIM 0.980, ΔE00 0.71" in page.text


def test_another_seed_is_shown_only_where_it_is_the_worst_picture(page: Page) -> None:
    images = [attributes for tag, attributes in page.tags if tag == "img" and attributes.get("src")]
    assert [str(image["alt"]).partition(" request")[0] for image in images[10:]] == [
        "reference,",
        "best, trial 2,",
        "trial 7,",
    ]
    shown = page.text[page.text.index("cat, with another seed") : page.text.index("All measured configurations", 2000)]
    assert "seed 1000" in shown
    assert "the worst of its 4 pictures" in shown
    assert "dog, with another seed" not in page.text


def test_what_people_said_and_what_was_not_assessed_stand_with_the_pictures(page: Page) -> None:
    assert re.search(r"rated same by Ann <A\.>, \d{4}-\d\d-\d\d", page.text)
    assert "Not assessed: LPIPS, DreamSim (no weights given)." in page.text


def test_the_page_loads_nothing(page: Page) -> None:
    assert page.references
    assert all(reference.startswith(("data:image/", "#")) for reference in page.references)
    policy = next(a for tag, a in page.tags if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy")
    assert str(policy["content"]).startswith("default-src 'none'")


def test_hostile_names_stay_text(results: Results, page: Page) -> None:
    assert HOSTILE in page.text
    assert "<dogs>" in page.text
    assert [tag for tag, _ in page.tags].count("script") == 3
    assert not [attributes for _, attributes in page.tags if "onerror" in attributes]


def test_random_weights_are_never_judged(tmp_path: Path) -> None:
    page = Page(report_html(replay(tmp_path, assessed=False)))
    assert page.text.count("not assessed (random weights)") >= 6
    assert not [attributes for tag, attributes in page.tags if tag == "img" and attributes.get("src")]
    for word in ("bit-exact", "imperceptible", "drift of the pictures", "SSIMULACRA2", "reordering floor"):
        assert word not in page.text
    assert not re.search(r"drift \d", page.text)


def test_the_best_row_says_what_can_be_trusted(page: Page) -> None:
    result = page.text[: page.text.index("What the best configuration does")]
    for words in (
        "Noise floor: 2.3% in latency and 0.9% in memory, from 5 processes",
        "Trial 2 ties with trial 7 in latency. Of configurations that tie in latency, the best is one that was",
        "Drift is compared on the 4 pictures that every trial has",
        "confirmed 2.50 times as fast as the reference (95 % interval 2.48 to 2.52), "
        "2.00 times as fast as torch.compile (95 % interval 1.98 to 2.02), in 6 blocks of fresh processes.",
        "drift 1.62 on 4 pictures; beyond the reordering floor",
        "drift 0.40 on 4 pictures; within the reordering floor",
        "4 of 4 pictures, 2 of 2 prompts: failure rate of prompts below 77.6 % at 95 % confidence",
        "0.28 per 1,000 images",
        "2.50× 2.48 to 2.52 in 6 blocks",
        # What real processes took, and beside it the same figure as every other trial has.
        "5.7 s median of 3; estimated 5.5 s",
    ):
        assert words in result
    assert "confirmed" in result.replace("unconfirmed", "")
    assert "unconfirmed" not in result
    assert "not confirmed" not in result


def test_finalists_stand_with_their_intervals_and_cold_starts(page: Page) -> None:
    section = _section(page, "Confirmed finalists The search", "Pictures The same")
    assert "faster 2.50× 2.48 to 2.52 faster 2.00× 1.98 to 2.02 6 1.3% 1.3% against torch.compile" in section
    assert "faster 1.25× 1.25 to 1.26 itself 6 0.5%" in section
    assert "reference trial 0 0.10 s 4.2 s 2.5 s 0.30 s 1.4 s 6.0 s 3" in section
    assert "torch.compile trial 1 0.10 s 4.2 s 2.5 s 0.30 s 38 s 42.6 s 3" in section


def test_a_request_is_split_into_its_stages(page: Page) -> None:
    section = _section(page, "Where a request's time goes The bar", "The front takes every difference")
    # The call that was split took 440 ms: its shares are of the latency that is shown everywhere.
    assert "best trial 2 401 ms 12 ms 321 ms 4 steps, median 80.2 ms 48 ms 8 ms 12 ms" in section
    assert "best trial 2 3.60 GiB 2.10 GiB" in section
    assert "GPU" not in section


def test_on_a_gpu_its_own_times_its_use_and_its_energy_are_shown(tmp_path: Path) -> None:
    page = Page(report_html(replay(tmp_path, device="cuda")))
    section = _section(page, "Where a request's time goes The bar", "The front takes every difference")
    assert "best trial 2 401 ms 12 ms 321 ms 4 steps, median 80.2 ms 48 ms 8 ms 12 ms" in section
    assert "best trial 2 3.60 GiB 2.10 GiB 96 %" in section
    assert "0.28 per 1,000 images 164 J per image" in page.text
    assert "the GPU was at its power cap in 31% of the readings: trial 0, trial 1" in page.text
    assert "resident" not in page.text


def test_all_configurations_say_why_measuring_stopped_and_where_it_happened(page: Page) -> None:
    section = _section(page, "All measured configurations Every", "Where the time of the search went 0.9")
    for words in (
        "n=5, 388 ms to 416 ms interval 1.8%, narrow enough",
        "interval 1.8%, time spent",
        "n=3, 873 ms to 936 ms interval 7.0%, ended early",
        "measuring ended early because trial 2 was clearly better in everything",
        "42.6 s median of 3; estimated 5.5 s",
        "0.83× unconfirmed",
        "ties with the best one measured in study earlier, trial 4: 3 hours old",
        "on 4 pictures; beyond the reordering floor",
    ):
        assert words in section
    assert (
        "Measuring 1 of them ended after a few calls, because another one was clearly better in everything" in page.text
    )
    assert "not on the front." not in page.text
    # What another study measured took no time here; what ran beside the trials did.
    assert "0.9 minutes in 7 trials, each in a process of its own; 1 measured in another study took none" in page.text
    assert "noise floor 4, canaries 2, reordering floor 3, confirming blocks 18, cold starts 9" in page.text


def test_the_machines_noise_is_laid_open(page: Page) -> None:
    section = _section(page, "Noise floor What each", "What the figures mean latency")
    for words in (
        "latency 1.00 s 1.00 s 992 ms 1.01 s 997 ms 2.3%",
        "cold start 5.5 s 5.5 s 5.5 s 5.5 s 5.5 s 0.9%",
        "2026-05-04 13:13 UTC 4 1.00 s +0.4% within",
        "2026-05-04 13:16 UTC 7 989 ms -1.1% within",
        "another attention kernel imperceptible on 4 pictures 0.62",
        "twice the batch oom out of memory <here>",
        "other programs used 7% of the CPU: trial 4",
    ):
        assert words in section


def test_doubts_come_before_the_figures(tmp_path: Path) -> None:
    results = replay(tmp_path, device="cuda")
    (shape,) = results.reference.measurements["latency"]
    timed_again(results, 0, latency=[{**shape, "min_ms": 390.0, "max_ms": 3000.0}])
    (shape,) = results.trial(2).measurements["latency"]
    timed_again(results, 2, latency=[{**shape, "throttled": ["hardware slowdown"], "throttled_ms": [700.0]}])
    timed_again(results, 3)
    add(results, run(RunKind.CANARY, 0, 1, "cuda", session=9, latency_ms=1100.0))
    text = Page(report_html(results)).text
    head = text[: text.index("Configuration Latency, median")]
    assert "more than 1.5 times as long as the fastest in trial 0" in head
    assert "Trial 3 was measured next to a check that found the machine changed: the figures are in doubt." in head
    assert "the GPU was throttled in trial 2" in head
    assert "1.10 s +10.0% beyond" in text
    assert "throttled calls are in the figures (1: hardware slowdown): trial 2" in text
    assert "throttled calls were repeated (1): trial 2" in text


def test_a_canary_that_took_several_times_as_long_has_no_percentage(tmp_path: Path) -> None:
    results = add(replay(tmp_path), run(RunKind.CANARY, 0, 1, "cpu", session=9, latency_ms=2500.0))
    assert "2.50 s 2.5 times beyond" in Page(report_html(results)).text


def test_a_machine_that_was_always_busy_is_one_sentence(tmp_path: Path) -> None:
    results = replay(tmp_path)
    for number, share in ((1, 0.45), (2, 0.53), (3, 0.5)):
        results.trial(number).measurements["machine"]["cpu"]["foreign_share"] = share
    text = Page(report_html(results)).text
    assert "other programs used 7% to 53% of the CPU: trial 1, trial 2, trial 3, trial 4." in text


def test_what_was_not_confirmed_says_so(tmp_path: Path) -> None:
    page = Page(report_html(replay(tmp_path, trusted=False)))
    head = page.text[: page.text.index("What the best configuration does")]
    assert "No gain of replayed is confirmed. Trial 7 (" in head
    assert (
        "Trial 7 is unconfirmed: it was not measured in blocks" in head[: head.index("Configuration Latency, median")]
    )
    assert "unconfirmed Measured once, as trial 7" in head
    assert "The noise floor was not measured: small differences may be noise." in head
    assert "reordering floor" not in head
    assert "Confirmed finalists" not in page.text


def test_a_difference_that_was_not_shown_is_a_tie_in_the_speed_column(tmp_path: Path) -> None:
    results = timed_again(replay(tmp_path), 4, latency_ms=985.0)  # within the noise floor of 2.3 %
    results = timed_again(results, 1, latency_ms=1001.0)  # as in the blocks
    for block in range(6):
        for trial, latency_ms in ((0, 1000.0 + block), (1, 1000.0 + 3 * (block % 2))):
            add(results, run(RunKind.BLOCK, trial, block, "cpu", session=2, latency_ms=latency_ms))
    html = report_html(results)
    page = Page(html)
    section = _section(page, "All measured configurations Every", "Where the time of the search went 1")
    assert "a tie 1.02× unconfirmed 2.20 GiB" in section
    assert "a tie 1.00× 1.00 to 1.00 in 6 blocks 2.50 GiB" in section
    assert "speed 1.02x, a tie, unconfirmed" in html  # in the plots, at the points


def test_cold_starts_that_failed_are_failures(tmp_path: Path) -> None:
    failed = run(RunKind.COLD_START, 2, 3, "cpu")
    failed.outcome, failed.reason = Outcome.CRASH, "the cold start failed: OSError: no <space> left"
    results = add(replay(tmp_path), failed)
    page = Page(report_html(results))
    doubt = "1 of 4 cold starts of trial 2 failed: the cold start failed: OSError: no <space> left."
    assert doubt in page.text[: page.text.index("Configuration Latency, median")]
    assert "Trial 2, cold starts crash 1 of 4 failed: the cold start failed: OSError" in page.text
    assert doubt in bundle_readme(results.trial(2))


def test_figures_that_a_moved_machine_throws_doubt_upon_are_named(tmp_path: Path) -> None:
    results = replay(tmp_path)
    for trial in (2, 3, 7):
        timed_again(results, trial)
    missing = run(RunKind.PICTURES, 2, 0, "cpu", session=64)
    missing.outcome, missing.reason = Outcome.OOM, "out of memory"
    add(results, run(RunKind.CANARY, 0, 0, "cpu", session=9, latency_ms=1100.0), missing)
    page = Page(report_html(results))
    head = page.text[: page.text.index("Configuration Latency, median")]
    assert "Trials 3, 7 were measured next to a check that found the machine changed: the figures are in doubt." in head
    assert "More pictures of trial 2 could not be made (oom: out of memory)." in head
    # Trial 2 was measured beside it too, but blocks have decided since.
    assert page.text.count("in doubt: measured next to a check that found the machine changed") == 2
    assert "Trial 2, more pictures oom 1 of 1 failed: out of memory" in page.text
    assert "> Trial 7 was measured next to a check" in bundle_readme(results.trial(7))
    assert "was measured next to a check" not in bundle_readme(results.trial(2))


def test_requests_of_several_shapes_are_kept_apart(tmp_path: Path) -> None:
    results = replay(tmp_path)
    for trial in results.complete:
        for shapes in (trial.measurements["latency"], trial.measurements.get("stages", [])):
            shapes.extend({**shape, "requests": ["dog"]} for shape in list(shapes))
            for shape in shapes[:1]:
                shape["requests"] = ["cat"]
    page = Page(report_html(results))
    assert "as a trial: 400 ms cat: 400 ms (n=5, 388 ms to 416 ms, interval 1.8%, narrow enough)" in page.text
    assert "dog: 400 ms (n=5, 388 ms to 416 ms, interval 1.8%, narrow enough)" in page.text
    assert "1 more shape of request" in page.text
    assert page.text.count("4 steps, median 80.2 ms") == 2


def _section(page: Page, first: str, after: str) -> str:
    """The page's text between two places; a heading with the words after it, as the contents have it too."""
    start = page.text.index(first)
    return page.text[start : page.text.index(after, start)]


def test_a_study_whose_reference_is_the_best(tmp_path: Path) -> None:
    text = Page(report_html(replay(tmp_path, only=(3, 5)))).text
    assert "No measured configuration of replayed is faster than the reference and keeps the study's limits." in text
    assert "best trial 0 The reference itself: nothing that keeps the study's limits was shown to be faster." in text
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
    assert "The pictures are not where the study left them" in Page(report_html(results)).text


def test_large_pictures_are_downscaled_alike(tmp_path: Path) -> None:
    write_pictures(tmp_path / "pictures", 0, 1024, ("cat-0.png", "dog-0.png"))
    files = sorted((tmp_path / "pictures").glob("*.png"))
    assert inline_pictures(files).longest_side_px is None
    inlined = inline_pictures(files, most_bytes=200_000)
    assert inlined.longest_side_px is not None
    assert sum(len(uri) for uri in inlined.uris.values()) < 280_000
    assert all(uri.startswith("data:image/webp;base64,") for uri in inlined.uris.values())


def test_a_cut_off_picture_is_left_out(tmp_path: Path) -> None:
    write_pictures(tmp_path / "pictures", 0, 64, ("cat-0.png", "dog-0.png"))
    cut = tmp_path / "pictures" / "cat-0.png"
    cut.write_bytes(cut.read_bytes()[:3000])
    assert [file.name for file in inline_pictures((tmp_path / "pictures").iterdir()).uris] == ["dog-0.png"]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_in_a_browser(results: Results, tmp_path: Path) -> None:
    # Words that do not break where lines do.
    long = {"torchao_quantization.scheme=float8_dynamic_activation_float8_weight": "needs a GPU of capability 8.9"}
    results.record.left_out = {**results.record.left_out, **long}
    file = write_report(results, tmp_path)
    with Browser(width_px=390, height_px=844, scheme="dark") as browser:
        browser.open(file.as_uri())
        browser.wait_for("document.querySelectorAll('.plot .points path.point').length >= 10")
        assert browser.evaluate("document.documentElement.scrollWidth") == 390
        assert "near-lossless" in browser.evaluate("document.querySelector('#plot-drift').textContent")
        assert "ended early" in browser.evaluate("document.querySelector('#plot-drift').data.map(t => t.name)")

        assert "2.48 to 2.52" in browser.evaluate("document.querySelector('#finalists tr.best').innerText")
        bars = browser.evaluate(
            "[...document.querySelectorAll('#stages .stack')].map(bar => [...bar.children].map("
            "stage => stage.getBoundingClientRect().width).reduce((a, b) => a + b) / bar.getBoundingClientRect().width)"
        )
        assert bars == pytest.approx([1.0, 0.8, 0.4], abs=0.02)

        first = "document.querySelector('#all tbody tr td').textContent"
        assert browser.evaluate(first) == "3"
        browser.evaluate("document.querySelectorAll('#all th button')[2].click()")
        assert browser.evaluate(first) == "4"

        browser.evaluate("document.querySelector('.card button').click()")
        assert browser.evaluate("document.querySelector('#viewer').open")
        browser.evaluate("document.querySelector('[data-step=\"1\"]').click()")
        caption = browser.evaluate("document.querySelector('#viewer p').textContent")
        assert "best, trial 2" in caption
        assert "rated same by Ann <A.>" in caption
        assert browser.evaluate("document.querySelector('#viewer img').className") == "pixelated"

        assert browser.console == []
        assert [url for url in browser.requests if not url.startswith(("file:", "data:", "blob:"))] == []
