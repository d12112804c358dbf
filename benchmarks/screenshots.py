"""Take the pictures of the dashboard's pages in docs/: python benchmarks/screenshots.py [--storage URL] [--study NAME]

Each page at a desk (1280 px) and on a phone (390 px), light and dark: docs/review-PAGE-{desk,phone}-{light,dark}.png.
Without a storage, the quickstart is launched first, with few trials, into a temporary folder: ten minutes on a quiet
machine. Nothing is written into a storage that is given, but for a choice and some ratings of simulated people, which
are asked for by --people. It takes Chromium, and the folder tests/, which drives it.
"""

import argparse
import io
import itertools
import random
import sys
import tempfile
import time
from pathlib import Path

from paretune.agent.results import Results
from paretune.agent.review.app.pictures_page import pictured
from paretune.agent.search import launch
from paretune.studies import Records, read_study
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.browser import Browser  # noqa: E402
from support.served import served  # noqa: E402

DOCS = ROOT / "docs"
TALL = {"front": 1330, "compare": 1240, "difference": 1240, "configuration": 1240}
WIDTHS = {"desk": (1280, 940), "phone": (390, 844)}
SCHEMES = ("light", "dark")
COLOURS = 256
DRAWN = "document.querySelectorAll('#plot .scatterlayer path.point').length > 2"
BEGUN = """(() => { const by = document.getElementById('by');
  if (!by.value) { by.value = 'Dee'; document.getElementById('who').requestSubmit(); }
  return document.getElementById('left').naturalWidth > 0 && document.getElementById('right').naturalWidth > 0; })()"""
LOADED = "[...document.images].filter((one) => one.loading !== 'lazy' && one.src).every((one) => one.naturalWidth > 0)"


def pages(results: Results) -> dict[str, tuple[str, str]]:
    """{name: (path, what to wait for)}."""
    base = f"/studies/{results.name}"
    best = results.best_or_none
    # Of pictures that hardly differ there is little to see.
    seen = [one for one in pictured(results) if 1 < one.drift <= 3] or pictured(results)
    trial = best if best is not None and best in seen else seen[0]
    worst = max(trial.quality["pictures"], key=lambda picture: float(picture["drift"]))["file"]
    return {
        "studies": ("/", "true"),
        "front": (base, DRAWN),
        "configuration": (f"{base}/trials/{trial.number}", "true"),
        "pictures": (f"{base}/pictures?trial={trial.number}", LOADED),
        "compare": (f"{base}/pictures/{trial.number}/{worst}", LOADED),
        "difference": (f"{base}/pictures/{trial.number}/{worst}?view=difference", LOADED),
        "blind": (f"{base}/blind?trial={trial.number}", BEGUN),
        "ratings": (f"{base}/ratings", "true"),
        "choose": (f"{base}/choose/{(best or trial).number}", "true"),
    }


def people(results: Results) -> None:
    """A choice, and ratings of simulated people, who go by PSNR and err now and then: their pages show something."""
    careless = random.Random(0)
    for rater in ("Ann", "Bo", "Cy"):
        for trial in pictured(results):
            for picture in trial.quality["pictures"]:
                psnr_db = picture["metrics"]["psnr_db"]
                worse = psnr_db is not None and (psnr_db < 38) != (careless.random() < 0.1)
                said = "worse" if worse else "same"
                results.records.rate(results.name, trial.number, picture["file"], said, rater, blind=True)
    best = results.best_or_none
    if best is not None:
        note = "The fastest one whose pictures our designers could not tell from the reference's."
        results.records.choose(results.name, best.number, note, "Ann")


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--storage")
    asked.add_argument("--study", default="quickstart")
    asked.add_argument("--people", action="store_true", help="rate and choose as simulated people, in this storage")
    asked.add_argument("--into", type=Path, default=DOCS, help="another folder than docs/")
    given = asked.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        storage = given.storage or f"sqlite:///{folder}/paretune.db"
        if given.storage is None:
            launch(read_study("quickstart"), storage=storage, trials=9, on_event=lambda event: print(event.text))
        results = Results(Records(storage, must_exist=True), given.study)
        if given.people or given.storage is None:
            people(results)
        with served(storage, Path(folder)) as visitor:
            for (view, (width, height)), scheme in itertools.product(WIDTHS.items(), SCHEMES):
                with Browser(width, height, scheme, timeout_s=120) as browser:
                    for name, (path, ready) in pages(results).items():
                        browser.resize(width, TALL.get(name, height) if view == "desk" else height)
                        browser.open(visitor.root + path)
                        browser.wait_for(ready)
                        time.sleep(1)  # for what fades in, and for small pictures
                        save(browser, given.into / f"review-{name}-{view}-{scheme}.png")


def save(browser: Browser, file: Path) -> None:
    """With a palette, which is a quarter of the size."""
    browser.screenshot(file)
    picture = Image.open(io.BytesIO(file.read_bytes())).convert("RGB")
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)
    print(file)


if __name__ == "__main__":
    main()
