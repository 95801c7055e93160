"""Files for other trainers, read by the real libraries: ``make export-check`` installs them."""

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
from autofit.knobs.parallelism import is_fsdp2
from tests.export.test_formats import VALUES, document_of, result_with

FOLDER = Path(__file__).parent
CASES = [
    *((knob, value, "full") for knob, value in VALUES),
    ("precision", "bf16", "lora"),
    ("precision", "bf16", "qlora"),
]


def readings(name: str, script: str, tmp_path: Path, *words: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """For every case the document and what the library made of it; skipped where it is not installed.

    ``words`` are what the script is given before the files.
    """
    variable = f"AUTOFIT_{name.upper().replace('-', '_')}"
    if not os.environ.get(variable):
        pytest.skip(f"{variable} names no folder with {name}: make export-check makes one")
    paths, documents = [], []
    for number, (knob, value, method) in enumerate(CASES):
        if name == "deepspeed" and is_fsdp2(value) and knob == "parallelism":
            continue  # refused, which test_formats.py has
        result = result_with(method=method, **{knob: value})
        exported = EXPORTERS[name](result)
        path = tmp_path / f"{number}.yaml"
        document = document_of(exported)  # JSON is YAML, too
        if "tf32" in document:
            document["tf32"] = False  # refused where there is no CUDA
        if name == "deepspeed":
            assert result.recommendation is not None
            pair = {"file": document, "arguments": dict(result.recommendation.training_arguments)}
            path.write_text(json.dumps(pair), encoding="utf-8")
        else:
            path.write_text(yaml.safe_dump(document), encoding="utf-8")
        paths.append(str(path))
        documents.append(document)
    folders = [os.environ[variable], os.environ["AUTOFIT_DEEPSPEED"]]
    found = os.pathsep.join(str(Path(each).resolve()) for each in folders)
    environment = {**os.environ, "PYTHONPATH": found, "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run(
        [sys.executable, str(FOLDER / script), *words, *paths],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
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


def test_ms_swift_understands_every_key_and_its_trainer_gets_them(tmp_path: Path) -> None:
    model = str(FOLDER.parents[1] / "examples" / "small-llama")
    for document, answer in readings("ms-swift", "read_by_ms_swift.py", tmp_path, model):
        del document["model"]
        for key, value in document.items():
            assert answer[key] == value or key in ("use_cpu", "lora_alpha"), key
        assert answer.get("lora_alpha") == document.get("lora_alpha")
        trainer = answer["trainer"]
        for key in ("bf16", "fp16", "gradient_checkpointing", "optim", "dataloader_num_workers"):
            assert trainer[key] == document[key], key
        size = trainer["per_device_train_batch_size"] * trainer["gradient_accumulation_steps"]
        assert size == 32


def test_unsloth_understands_every_key(tmp_path: Path) -> None:
    for document, answer in readings("unsloth", "read_by_unsloth.py", tmp_path):
        assert answer["model"] == document["model"]
        for section in ("training", "lora"):
            for key, value in document.get(section, {}).items():
                assert answer[section][key] == value, key


def test_deepspeed_and_training_arguments_agree_on_the_file(tmp_path: Path) -> None:
    stages = []
    for document, answer in readings("deepspeed", "read_by_deepspeed.py", tmp_path):
        del document["_comment"]
        document.pop("zero_force_ds_cpu_optimizer", None)  # accelerate reads it
        wanted, found = document.pop("zero_optimization"), answer.pop("zero_optimization")
        assert {key: found[key] for key, value in wanted.items() if value != "auto"} == {
            key: value for key, value in wanted.items() if value != "auto"
        }
        assert "auto" not in found.values()
        assert answer == {"data_types": {"grad_accum_dtype": None}, **document}
        assert answer["train_batch_size"] == 32
        stages.append(found["stage"])
    assert set(stages) == {0, 2, 3}
