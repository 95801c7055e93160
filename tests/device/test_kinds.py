"""Finding a device, and the sentences where one cannot be asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from autofit.device import cuda, nvml
from autofit.device.cuda import ASKED_LATER
from autofit.device.kinds import find_device
from autofit.errors import UserError


@pytest.fixture(autouse=True)
def no_cards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without a card, whatever this one has; the path at which a card's node may be made."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(nvml, "_is_ready", lambda: False)
    monkeypatch.setattr(cuda, "NODES", (tmp_path / "nvidia0",))
    return tmp_path / "nvidia0"


def test_auto_is_the_processor_where_there_is_no_card() -> None:
    assert find_device("auto").kind == "cpu"
    with pytest.raises(UserError, match="no GPU was found"):
        find_device("cuda:0")


@pytest.mark.parametrize("label", ["auto", "cuda:0"])
def test_a_card_without_its_management_library_is_not_passed_over_in_silence(label: str, no_cards: Path) -> None:
    no_cards.touch()
    with pytest.raises(UserError, match="NVML"):
        find_device(label)
    assert find_device("cpu").kind == "cpu"


def test_a_card_that_is_hidden_on_purpose_is_passed_over(no_cards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_cards.touch()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert find_device("auto").kind == "cpu"


def test_a_slice_of_a_card_is_a_device_whose_memory_the_worker_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-7c1e2f3a-0000-0000-0000-000000000000")
    found = find_device("auto")
    assert found.kind == "cuda" and found.memory_bytes == ASKED_LATER
    assert nvml.visible_slice() == "MIG-7c1e2f3a-0000-0000-0000-000000000000"


def test_a_driver_that_does_not_tell_the_memory_leaves_it_to_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: object) -> None:
        raise nvml.pynvml.NVMLError(nvml.pynvml.NVML_ERROR_NOT_SUPPORTED)

    monkeypatch.setattr(nvml, "_is_ready", lambda: True)
    monkeypatch.setattr(nvml.pynvml, "nvmlDeviceGetCount", lambda: 1)
    monkeypatch.setattr(nvml.pynvml, "nvmlDeviceGetHandleByIndex", lambda index: object())
    monkeypatch.setattr(nvml.pynvml, "nvmlDeviceGetName", lambda handle: "NVIDIA GB10")
    monkeypatch.setattr(nvml.pynvml, "nvmlDeviceGetMemoryInfo", refuse)
    monkeypatch.setattr(cuda.importlib.metadata, "version", lambda name: "2.14.1")
    found = find_device("auto")
    assert found.name == "NVIDIA GB10" and found.memory_bytes == ASKED_LATER
