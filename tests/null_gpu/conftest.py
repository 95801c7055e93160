"""The null GPU as a fixture: built once, and commands run with it, each with a machine of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest

from autofit.job.models import built_in_models
from tests.null_gpu.build import BuildError, build
from tests.null_gpu.run import environment

MODEL = "HuggingFaceTB/SmolLM2-135M"
FEW_LAYERS = 4
"""Python is called for every operator, which for all thirty layers takes half of a search's time."""


@dataclass(frozen=True)
class NullGpu:
    """Runs commands with a card that is not there. ``settings`` are those of README.md, without ``NULL_GPU_``."""

    folder: Path
    home: Path

    def run(self, *words: str, seconds: float = 400, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; its output as text."""
        own = {**os.environ, "AUTOFIT_HOME": str(self.home), "HF_HUB_OFFLINE": "1", "NULL_GPU_ID": uuid.uuid4().hex}
        own |= {name if name.startswith("CUDA_") else f"NULL_GPU_{name}": value for name, value in settings.items()}
        return subprocess.run(
            words, capture_output=True, text=True, check=False, timeout=seconds, env=environment(self.folder, own)
        )

    def python(self, code: str, **settings: str) -> str:
        """Output of a program that has to end well."""
        ended = self.run(sys.executable, "-c", code, **settings)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def autofit(self, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """The command line."""
        return self.run(sys.executable, "-m", "autofit", *words, **settings)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the compiled library. Skipped, or failed where it was asked for, with what is missing."""
    folder = tmp_path_factory.mktemp("null-gpu")
    try:
        build(folder)
    except BuildError as error:
        if os.environ.get("NULL_GPU_REQUIRED"):
            pytest.fail(str(error))
        pytest.skip(str(error))
    return folder


@pytest.fixture
def null_gpu(built: Path, own_home: Path) -> NullGpu:
    return NullGpu(built, own_home)


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A folder with the configuration of SmolLM2-135M, but for its layers."""
    folder = tmp_path / "few-layers"
    folder.mkdir()
    config = {**built_in_models()[MODEL]["config"], "architectures": ["LlamaForCausalLM"]}
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": FEW_LAYERS}))
    return str(folder)
