"""Rules about the package as a whole: imports go down, and the light things stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "autofit"

# Floor of every module, or of a whole folder; an import may go to the same floor or below.
FLOORS = {
    "cli": 6,
    "__main__": 6,
    "__init__": 6,
    "api": 5,
    "report": 5,
    "export": 5,
    "planning": 5,
    "plan_result": 4,
    "plan_progress": 4,
    "plan_candidates": 4,
    "result": 4,
    "request": 4,
    "driver": 4,
    "equivalence": 4,
    "explanation": 4,
    "recommendation": 4,
    "study": 3,
    "ranking": 3,
    "trial": 3,
    "tracer": 3,
    "predict": 2,
    "space": 2,
    "baseline": 2,
    "knobs": 1,
    "recipe": 1,
    "failures": 1,
    "detect": 1,
    "data": 1,
}
WORKER_ONLY = {
    "accelerator", "batches", "build", "collators", "compilation", "hidden_import", "instrument", "isolation",
    "measure", "measure_rates", "one_step", "optimizer_state", "probe", "samples", "schedule", "server",
    "varlen_attention", "worker",
}  # fmt: skip
HEAVY = {"torch", "transformers", "accelerate", "bitsandbytes", "peft"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def floor_of(name: str) -> int:
    return FLOORS.get(name.split(".")[0], 0)


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


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_go_down_the_floors(path: Path) -> None:
    own = floor_of(name_of(path))
    for imported in imports_of(path):
        if (
            imported.startswith("autofit.")
            and (PACKAGE / imported.split(".")[1]).exists() | (PACKAGE / f"{imported.split('.')[1]}.py").exists()
        ):
            target = imported.removeprefix("autofit.")
            assert floor_of(target) <= own, f"{name_of(path)} imports {target}, which is above it"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_only_workers_import_torch(path: Path) -> None:
    name = name_of(path)
    if name.startswith("tracer.") or (name.startswith("trial.") and name.split(".")[1] in WORKER_ONLY):
        return
    # A library user may ask a finished result for real TrainingArguments; that import stays in the method.
    found = {module.split(".")[0] for module in imports_of(path, top_level_only=name == "result")}
    assert not found & HEAVY, f"{name} must not import {found & HEAVY}"
    # What a library user takes away is the very code that was measured; its imports stay in the methods, too.
    taken_away = {"collators", "varlen_attention"} if name == "result" else set()
    worker_modules = {f"autofit.trial.{module}" for module in WORKER_ONLY - taken_away}
    assert not any(imported.startswith("autofit.tracer") for imported in imports_of(path)), f"{name} must not trace"
    assert not imports_of(path) & worker_modules, f"{name} must not import the worker's side"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_torch_cuda_is_named_in_the_accelerator_file_alone(path: Path) -> None:
    code = ast.unparse(ast.parse(path.read_text()))
    assert name_of(path) == "trial.accelerator" or "torch.cuda" not in code


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_no_file_grows_past_four_hundred_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_every_file_opens_with_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), f"{name_of(path)} has no docstring"


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        ("import autofit", HEAVY | {"optuna", "rich", "sqlalchemy"}),
        ("from autofit.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass",
         HEAVY | {"optuna", "rich", "sqlalchemy", "huggingface_hub"}),
        ("import autofit.api", HEAVY),
        ("import autofit.trial.runner, autofit.driver.loop, autofit.report.live", HEAVY),
        ("import autofit.planning, autofit.report.plan", HEAVY | {"optuna", "sqlalchemy"}),
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
