"""Axolotl's and LLaMA-Factory's files, read by the real libraries: ``make export-check`` installs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from autofit.export import EXPORTERS
from tests.export.test_formats import VALUES, document_of, result_with

FOLDER = Path(__file__).parent
CASES = [
    *((knob, value, "full") for knob, value in VALUES),
    ("precision", "bf16", "lora"),
    ("precision", "bf16", "qlora"),
]


def readings(name: str, script: str, tmp_path: Path) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """For every case the document and what the library made of it; skipped where it is not installed."""
    variable = f"AUTOFIT_{name.upper().replace('-', '_')}"
    if not os.environ.get(variable):
        pytest.skip(f"{variable} names no folder with {name}: make export-check makes one")
    paths, documents = [], []
    for number, (knob, value, method) in enumerate(CASES):
        exported = EXPORTERS[name](result_with(method=method, **{knob: value}))
        path = tmp_path / f"{number}.yaml"
        document = {**document_of(exported), "tf32": False}  # refused where there is no CUDA
        path.write_text(yaml.safe_dump(document), encoding="utf-8")
        paths.append(str(path))
        documents.append(document)
    environment = {**os.environ, "PYTHONPATH": str(Path(os.environ[variable]).resolve()), "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run(
        [sys.executable, str(FOLDER / script), *paths], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    answer = next(line for line in ran.stdout.splitlines() if line.startswith("READ "))
    return list(zip(documents, json.loads(answer.removeprefix("READ ")), strict=True))


def test_axolotl_understands_every_key_and_drops_none(tmp_path: Path) -> None:
    for document, answer in readings("axolotl", "read_by_axolotl.py", tmp_path):
        assert answer["dropped"] == []
        for key, value in document.items():
            assert answer["understood"][key] == value, key


def test_llama_factory_understands_every_key(tmp_path: Path) -> None:
    for document, answer in readings("llama-factory", "read_by_llama_factory.py", tmp_path):
        targets = document.pop("lora_target", None)
        assert targets is None or answer["lora_target"] == [targets]
        for key, value in document.items():
            assert answer[key] == value, key
