"""Rules about the package as a whole: imports go down, and the light things stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "autofit"

LADDER = (
    "errors", "version", "units", "runtime", "device", "job", "knobs", "study", "predict", "trial", "worker",
    "planning", "driver", "report", "joined", "api", "own_program", "own_training", "attached", "export", "cli",
    "__init__", "__main__",
)  # fmt: skip
"""The rooms, lowest first: what is in one may import from those before it and from no other."""
WITH_TORCH = ("worker", "runtime", "attached")
HEAVY = {"torch", "transformers", "accelerate", "bitsandbytes", "peft"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def room_of(name: str) -> str:
    return name.split(".")[0]


def imports_of(path: Path, *, top_level_only: bool = False) -> set[str]:
    """Modules named in import statements; those only for type checkers are left out."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and getattr(branch.test, "id", "") == "TYPE_CHECKING"
        for node in ast.walk(branch)
    }
    found = set()
    for node in tree.body if top_level_only else ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def test_every_room_has_its_place_on_the_ladder() -> None:
    assert {room_of(name_of(path)) for path in modules()} == set(LADDER)


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_go_down_the_ladder(path: Path) -> None:
    own = room_of(name_of(path))
    others = {room_of(each.removeprefix("autofit.")) for each in imports_of(path) if each.startswith("autofit.")}
    above = {room for room in others & set(LADDER) if LADDER.index(room) > LADDER.index(own)}
    assert not above, f"{name_of(path)} imports from {above}"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_torch_is_imported_in_the_worker_and_in_what_users_take_away_alone(path: Path) -> None:
    name = name_of(path)
    if room_of(name) in WITH_TORCH:
        return
    # A library user may ask a finished result for real TrainingArguments and its collator; that stays in the methods.
    is_result = name == "study.result"
    found = {module.split(".")[0] for module in imports_of(path, top_level_only=is_result)}
    assert not found & HEAVY, f"{name} must not import {found & HEAVY}"
    with_torch = {f"autofit.{room}" for room in WITH_TORCH if not (is_result and room == "runtime")}
    reached = {".".join(each.split(".")[:2]) for each in imports_of(path)}
    assert not reached & with_torch, f"{name} must not import the worker's side"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_torch_cuda_is_named_in_the_accelerator_file_and_where_a_trace_answers_for_it_alone(path: Path) -> None:
    code = ast.unparse(ast.parse(path.read_text()))
    assert name_of(path) in ("worker.accelerator", "worker.tracer.liger") or "torch.cuda" not in code


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_no_file_grows_past_four_hundred_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_every_file_opens_with_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), f"{name_of(path)} has no docstring"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_no_docstring_opens_like_a_question(path: Path) -> None:
    """The noun comes first: what a thing is, not what is asked about it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            opening = (ast.get_docstring(node) or "-").split()[0]
            assert opening not in ("What", "Which", "How", "Whether"), getattr(node, "name", "module")


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        ("import autofit", HEAVY | {"optuna", "rich", "sqlalchemy"}),
        ("from autofit.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass",
         HEAVY | {"optuna", "rich", "sqlalchemy", "huggingface_hub"}),
        ("import autofit.api", HEAVY),
        ("import autofit.trial.runner, autofit.driver.loop, autofit.report.live", HEAVY),
        ("import autofit.planning.planner, autofit.report.plan", HEAVY | {"optuna", "sqlalchemy"}),
    ],
    ids=["import", "help", "api", "parent", "plan"],
)  # fmt: skip
def test_light_things_load_nothing_heavy(code: str, forbidden: set[str]) -> None:
    script = f"{code}\nimport sys\nprint('LOADED', *sorted(set(m.split('.')[0] for m in sys.modules)))"
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    loaded = set(output.rsplit("LOADED", 1)[1].split())
    assert "sys" in loaded and not loaded & forbidden


def test_the_search_function_is_not_hidden_by_a_package_of_the_same_name() -> None:
    script = "import autofit, autofit.api, autofit.driver.loop\nassert callable(autofit.search)"
    subprocess.run([sys.executable, "-c", script], check=True)


KINDS_ARE_ASKED_IN = {
    "knobs.availability": "what needs CUDA itself",
    "worker.tracer.target": "a trace is for one of two kinds of kernels",
}
"""Files outside of device/ that compare a kind of device with a name, and why."""


def test_kinds_of_devices_are_told_apart_by_their_classes_alone() -> None:
    asking = set()
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare) and ast.unparse(node.left).split(".")[-1] in ("kind", "device_kind"):
                asking |= {name_of(path)} if isinstance(node.comparators[0], ast.Constant) else set()
    assert {name for name in asking if room_of(name) != "device"} == set(KINDS_ARE_ASKED_IN)


VALUES_ARE_SPELLED_IN = {
    "export.accelerate_config": "arguments of TrainingArguments",
    "export.axolotl": "arguments of TrainingArguments, and a sampling strategy of transformers'",
    "export.deepspeed_config": "arguments of TrainingArguments",
    "export.into": "arguments that TRL switches on",
    "export.llama_factory": "arguments of TrainingArguments, and transformers' names of attentions",
    "export.ms_swift": "arguments of TrainingArguments, and transformers' names of attentions",
    "export.trl": "arguments of TrainingArguments, and transformers' names of attentions",
    "export.unsloth": "arguments of TrainingArguments, and the one optimizer that it trains with",
    "planning.candidates": "rungs of the ladder, in the order in which they are planned",
    "planning.planner": "a feature that is missing only because no GPU is here",
    "predict.families": "arguments of TrainingArguments with the same names",
    "predict.needs": "the layout of the one sample with which an update is traced",
    "predict.predictor": "the rate of a card's products in tf32",
    "runtime.varlen_attention": "the name under which transformers finds the attention",
    "worker.accelerator": "a feature that ROCm lacks",
    "worker.batches": "transformers' own sampling strategies",
    "worker.probe": "transformers' own names of attentions, and features",
    "worker.program.device": "an argument of TrainingArguments",
    "worker.program.acceleration": "arguments of TrainingArguments, and torch's name of a backend",
    "worker.program.facts": "arguments of TrainingArguments",
    "worker.program.settings": "arguments of TrainingArguments, and torch's name of a backend",
}
"""Files outside of knobs/ in which a string is also a knob's value, and what it is there."""


def test_values_of_knobs_are_spelled_among_the_knobs_alone() -> None:
    from autofit.knobs import KNOBS

    values = {choice.value for row in KNOBS for choice in row.choices} - {"default", "off"}
    spelled = {
        name_of(path)
        for path in modules()
        if room_of(name_of(path)) != "knobs"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in values and isinstance(node.value, str)
    }
    assert spelled == VALUES_ARE_SPELLED_IN.keys()
