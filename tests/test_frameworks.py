"""Axolotl and LLaMA-Factory, each in an environment of its own beside autofit: ``make frameworks``."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parents[1] / "examples" / "programs"
TRAIN = {
    "axolotl": ["axolotl", "train", str(PROGRAMS / "axolotl.yaml"), "--launcher", "python"],
    "llama-factory": ["llamafactory-cli", "train", str(PROGRAMS / "llama_factory.yaml")],
}
OPTIONS = ["--device", "cpu", "--max-trials", "3", "--trial-timeout", "2m", "--json", "--fix", "precision=fp32"]


@pytest.mark.parametrize("name", TRAIN)
def test_a_frameworks_own_command_is_found_and_searched(name: str, tmp_path: Path) -> None:
    variable = f"AUTOFIT_ENVIRONMENT_{name.replace('-', '_').upper()}"
    if variable not in os.environ:
        pytest.skip(f"{variable} names no environment with {name}: make frameworks makes one")
    bin_folder = Path(os.environ[variable]).resolve() / "bin"
    home = {"AUTOFIT_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "AXOLOTL_DO_NOT_TRACK": "1"}
    environment = {**os.environ, **home, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)

    run(str(bin_folder / "python"), str(PROGRAMS / "prepare.py"))
    ran = run(str(bin_folder / "autofit"), "run", *OPTIONS, "--", *TRAIN[name])
    document = json.loads(ran.stdout)
    assert document["workload"]["effective_batch"] == 16
    first, *others = document["trials"]
    assert (first["config"]["micro_batch_size"], first["outcome"]) == (8, "ok") and others
    # Both override the method that makes the optimizer, and ask args.optim in the end.
    assert document["program"]["model"] == "LlamaForCausalLM" and "optimizer (" not in ran.stderr
    assert not list(tmp_path.rglob("output/*.safetensors"))
