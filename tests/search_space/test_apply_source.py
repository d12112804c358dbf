"""apply.py: plain Python with what the configuration needs and nothing else."""

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from paretune.search_space import (
    TECHNIQUES,
    Configuration,
    apply_source,
    forget_techniques,
    known_techniques,
    load_techniques,
)

MOST_EACH = 12
SINGLE = [
    {known.name: parameters.model_dump()}
    for known in TECHNIQUES
    for combinations in [list(known.parameters.combinations())]
    for parameters in combinations[:: -(-len(combinations) // MOST_EACH)]
]
"""At most so many combinations of each technique's parameters, spread over all of them."""
OWN = """
from paretune.search_space import Axis, Loss, NoParameters, Technique

def {helper}(value):
    return value + {number}

def {name}(pipelines):
    pipelines["seen"] = {helper}(1)

def effect(pipelines):
    return None

TECHNIQUES = (
    Technique(
        name="{name}", axis=Axis.CACHING, loss=Loss.REORDERED, summary="Counts.", source="none",
        parameters=NoParameters, apply={name}, took_effect=effect, helpers=({helper},), packages=("counting",),
    ),
)
"""


def own(file: Path, *, name: str, helper: str = "add", number: int = 1) -> Path:
    file.write_text(OWN.format(name=name, helper=helper, number=number))
    return file


def functions(source: str) -> list[str]:
    return [node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]


@pytest.mark.parametrize("techniques", [{}, *SINGLE])
def test_it_compiles_and_calls_with_every_parameter(techniques: dict[str, dict[str, Any]]) -> None:
    configuration = Configuration.of(techniques)
    source = apply_source(configuration)
    compile(source, "apply.py", "exec")
    (entry,) = [n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef) and n.name == "apply_techniques"]
    calls = [
        (n.value.func.id, {k.arg: ast.literal_eval(k.value) for k in n.value.keywords if k.arg != "artefacts"})
        for n in entry.body
        if isinstance(n, ast.Expr) and isinstance(n.value, ast.Call) and isinstance(n.value.func, ast.Name)
    ]
    assert calls == [(step.technique, step.values()) for step in configuration.steps]


@pytest.mark.parametrize("techniques", [{}, *SINGLE])
def test_it_imports_neither_paretune_nor_what_it_does_not_need(techniques: dict[str, dict[str, Any]]) -> None:
    tree = ast.parse(apply_source(Configuration.of(techniques)))
    modules = {alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
    modules |= {str(n.module) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert "paretune" not in {module.partition(".")[0] for module in modules}
    if not techniques:
        assert modules == {"typing"}
        assert functions(apply_source(Configuration())) == ["apply_techniques", "apply"]


def test_helpers_are_written_once_and_techniques_in_order() -> None:
    written = functions(apply_source(Configuration.of({"torch_compile": {}, "channels_last": {}, "fused_qkv": {}})))
    assert written.count("torch_modules") == written.count("denoisers") == 1
    own_functions = [name for name in written if name in {"fused_qkv", "channels_last", "torch_compile"}]
    assert own_functions == ["fused_qkv", "channels_last", "torch_compile"]
    assert written[-1] == "apply"


def test_head_says_what_it_is_and_what_it_was_measured_with() -> None:
    configuration = Configuration.of({"torchao_quantization": {"scheme": "int8_weight_only"}})
    head = ast.get_docstring(ast.parse(apply_source(configuration, {"torch": "2.13.0", "torchao": "0.18.0"})))
    assert head is not None
    assert configuration.key in head
    assert "Needs torch, diffusers, torchao; nothing else. Measured with torch 2.13.0, torchao 0.18.0." in head


def test_the_same_configuration_is_the_same_text() -> None:
    assert apply_source(Configuration.of({"deepcache": {}, "fused_qkv": {}})) == apply_source(
        Configuration.of({"fused_qkv": {}, "deepcache": {"interval": 3, "branch": 0}})
    )


def test_a_users_own_technique_runs_from_the_written_file_alone(tmp_path: Path) -> None:
    load_techniques(own(tmp_path / "counting.py", name="counting"))
    assert known_techniques()[-1].name == "counting"
    (tmp_path / "apply.py").write_text(apply_source(Configuration.of({"counting": {}})))
    script = "import sys; sys.modules['paretune'] = None; from apply import apply; p = {}; apply(p); print(p)"
    ran = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert ran.stdout == "{'seen': 2}\n", ran.stderr


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    file = own(tmp_path / "changing.py", name="changing", helper="add_some")
    load_techniques(file)
    before = apply_source(Configuration.of({"changing": {}}))
    load_techniques(own(file, name="changing", helper="add_some", number=20000))
    after = apply_source(Configuration.of({"changing": {}}))
    assert "value + 1\n" in before
    assert "value + 20000\n" in after


def test_a_file_is_executed_once_until_it_changes(tmp_path: Path) -> None:
    file, mark = own(tmp_path / "costly.py", name="costly", helper="add_costly"), tmp_path / "executed"
    text = f"open({str(mark)!r}, 'a').write('x')\n" + file.read_text()
    file.write_text(text)
    (first,) = load_techniques(file)
    (second,) = load_techniques(tmp_path / ".." / tmp_path.name / "costly.py")
    assert second is first
    assert mark.read_text() == "x"

    file.write_text(text.replace("value + 1", "value + 2"))  # of the same length, perhaps within the same second
    (third,) = load_techniques(file)
    assert mark.read_text() == "xx"
    assert third is not first
    assert "value + 2\n" in apply_source(Configuration.of({"costly": {}}))
    file.write_text(text.replace("costly", "cheap"))
    load_techniques(file)
    assert "costly" not in {known.name for known in known_techniques()}

    forget_techniques()
    assert known_techniques() == TECHNIQUES


def test_of_two_files_with_one_technique_the_last_loaded_counts(tmp_path: Path) -> None:
    files = [tmp_path / folder / "mine.py" for folder in ("a", "b")]
    for number, file in enumerate(files):
        file.parent.mkdir()
        own(file, name="twice", helper="add_twice", number=number)
    for number in (0, 1, 0):
        (loaded,) = load_techniques(files[number])
        assert known_techniques()[-1] is loaded
        assert f"value + {number}\n" in apply_source(Configuration.of({"twice": {}}))


@pytest.mark.parametrize(
    ("first", "second", "sentence"),
    [
        ({"name": "deepcache"}, None, "there is a technique 'deepcache' already"),
        ({"name": "a1", "helper": "denoisers"}, None, "another function is called 'denoisers' already"),
        ({"name": "apply", "helper": "b1"}, None, "another function is called 'apply' already"),
        (
            {"name": "c1", "helper": "add_c"},
            {"name": "c2", "helper": "add_c", "number": 5},
            "another function is called 'add_c' already",
        ),
    ],
)
def test_names_that_would_clash_in_the_written_file(
    tmp_path: Path, first: dict[str, Any], second: dict[str, Any] | None, sentence: str
) -> None:
    if second is not None:
        load_techniques(own(tmp_path / "first.py", **first))
    with pytest.raises(ValueError, match=sentence):
        load_techniques(own(tmp_path / "second.py", **(second or first)))
    assert (second or first)["name"] not in {known.name for known in known_techniques()} - {"deepcache"}


@pytest.mark.parametrize(
    "text",
    ["def", "raise RuntimeError('two\\nlines')", "import no_such_module", "", "TECHNIQUES = (3,)", "TECHNIQUES = 3"],
)
def test_a_file_that_cannot_be_used_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ValueError, match="cannot be used: ") as raised:
        load_techniques(tmp_path / "mine.py")
    assert "\n" not in str(raised.value)
