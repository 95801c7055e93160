"""The wheel: it holds the whole package and nothing else, and runs from another folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    # A copy: building leaves folders behind.
    shutil.copytree(ROOT / "autofit", source / "autofit", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([*build, str(folder), str(source)], check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_and_source_archive_are_what_an_index_takes(wheel: Path) -> None:
    source, folder = wheel.parent / "source", wheel.parent
    build = f"from setuptools import build_meta; print(build_meta.build_sdist({str(folder)!r}))"
    built = subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True, text=True)
    archive = folder / built.stdout.splitlines()[-1]
    checked = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(archive)], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout
    with tarfile.open(archive) as tar:
        held = {name.partition("/")[2] for name in tar.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "autofit/report/html/page.html", "autofit/py.typed"} <= held
    assert not any(name.startswith(("tests", "benchmarks", "docs")) for name in held)


def test_the_wheel_holds_every_module_and_data_file_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    package = [path for path in (ROOT / "autofit").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert held == {str(path.relative_to(ROOT)) for path in package}


def test_what_is_in_the_wheel_plans_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    words = ["plan", "EleutherAI/pythia-70m", "--effective-batch", "4", "--seq-len", "128", "--gpu", "t4", "--quiet"]
    words += ["--fix", "precision=fp16", "--fix", "attention=sdpa", "--fix", "optimizer=adamw_torch_fused"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed"), "AUTOFIT_HOME": str(tmp_path / "home")}
    where = [sys.executable, "-c", "import autofit; print(autofit.__file__)"]
    found = subprocess.run(where, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout
    assert found.startswith(str(tmp_path / "installed"))
    planned = subprocess.run(
        [sys.executable, "-m", "autofit", *words], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert planned.returncode == 0, planned.stderr
    assert "T4" in planned.stdout and "x" in planned.stdout
