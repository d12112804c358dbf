"""docs/study-file.md: its tables are those of the schema, every key is explained, and its examples can be read."""

import re
from pathlib import Path

import pytest
import study_file_reference
import yaml
from paretune.studies import Study, parse_study
from PIL import Image
from pydantic import BaseModel

PAGE = study_file_reference.PAGE.read_text(encoding="utf-8")
EXAMPLES = [yaml.safe_load(example) for example in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]
SECTIONS = dict(study_file_reference.sections("", Study))


def test_the_page_is_what_the_schema_says() -> None:
    assert study_file_reference.page() == PAGE, "run make docs"


@pytest.mark.parametrize("section", SECTIONS.values(), ids=lambda section: section.__name__)
def test_every_key_has_a_sentence(section: type[BaseModel]) -> None:
    assert section.__doc__
    for name, field in section.model_fields.items():
        assert re.search(r"\w+ \w+.*\.$", field.description or "", re.DOTALL), f"{section.__name__}.{name}"


def test_every_section_is_on_the_page_once() -> None:
    for path in filter(None, SECTIONS):
        assert PAGE.count(f"### `{path}`\n") == 1


def test_every_link_to_a_section_has_its_heading() -> None:
    headings = re.findall(r"^#+ (.*)$", PAGE, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#(.*?)\)", PAGE)) <= anchors


def test_the_example_at_the_top_is_a_study_with_every_key(tmp_path: Path) -> None:
    study = parse_study(EXAMPLES[0], "study-file.md", tmp_path)
    assert set(EXAMPLES[0]) == {field.alias or name for name, field in Study.model_fields.items()}
    assert all(preset in study.search_space() for preset in study.presets())


def test_the_example_that_begins_with_a_picture_can_be_read(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "sketch.png")
    study = parse_study({"schema": 1, "name": "refined", **EXAMPLES[1]}, "study-file.md", tmp_path)
    assert study.input_files() == [str(tmp_path / "sketch.png")]


def test_the_example_with_adapters_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "product.py").write_text("def load(device): ...\ndef run(pipelines, request): ...\n")
    study = parse_study({"schema": 1, "name": "inked", **EXAMPLES[2]}, "study-file.md", tmp_path)
    assert study.workload.requests[1].adapters == ["ink"]
