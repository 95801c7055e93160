"""Fixtures: a home of its own for every test, a tiny model, situations without a device."""

from __future__ import annotations

import functools
import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
import sqlalchemy

from autofit.device.processor import Processor
from autofit.driver import session
from autofit.job.models import ModelSource, resolve_model
from autofit.job.situation import Situation
from autofit.trial.protocol import MeasuringPlan
from tests.doubles import make_situation

if "PYTEST_XDIST_WORKER" in os.environ:
    # Threads that wait for a busy core wait actively: two tests at once, of two threads each, take many times as long.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A change is judged by the same examples as the one before it; HYPOTHESIS_PROFILE=default draws others.
hypothesis.settings.register_profile("same", derandomize=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


@sqlalchemy.event.listens_for(sqlalchemy.Engine, "connect")
def _leave_writing_to_the_system(connection: object, record: object) -> None:
    """Commits outlive this process and not the machine: thousands of small studies wait for no disk."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous = OFF")


TINY_LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "max_position_embeddings": 256,
}


@pytest.fixture(scope="session")
def deepspeed() -> str:
    """The folder with DeepSpeed, for PYTHONPATH: where it is found, accelerate and transformers act otherwise."""
    folder = os.environ.get("AUTOFIT_DEEPSPEED")
    if not folder:
        pytest.skip("AUTOFIT_DEEPSPEED names no folder with DeepSpeed: make test-whole and make null-gpu have one")
    return str(Path(folder).resolve())


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Studies and logs of a test stay in its own folder; the hub is not asked."""
    home = tmp_path / "autofit-home"
    monkeypatch.setenv("AUTOFIT_HOME", str(home))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("COLUMNS", raising=False)
    return home


@pytest.fixture
def tiny_model(tmp_path: Path) -> Path:
    """A folder with the configuration of a model of 0.3 million parameters."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(TINY_LLAMA))
    return folder


@pytest.fixture
def tiny_source(tiny_model: Path) -> ModelSource:
    return resolve_model(str(tiny_model))


@pytest.fixture
def short_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches in this process time each trial for a fraction of a second, where nothing is asked of their times."""
    monkeypatch.setattr(session, "MeasuringPlan", functools.partial(MeasuringPlan, patience_seconds=0.5))
    monkeypatch.setattr(Processor, "round_seconds", 0.2)


@pytest.fixture
def situation() -> Situation:
    """A CPU, a llama, an effective batch of 32."""
    return make_situation()


@pytest.fixture
def situation_of() -> Callable[..., Situation]:
    return make_situation


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """GPU tests are skipped with the reason where there is no CUDA device."""
    from autofit.device import nvml

    if nvml.visible_indices() or Path("/dev/kfd").exists():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="no CUDA device here"))
