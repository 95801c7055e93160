"""The frame of every benchmark's JSON: machine, versions, date, figures."""

from __future__ import annotations

import datetime
import json
import platform
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from autofit.device import nvml
from autofit.device.host import host_memory_bytes, processor_name
from autofit.device.versions import installed_versions
from autofit.study.measurement import Measurement
from autofit.version import __version__

RESULTS = Path(__file__).parent / "results"


def about(command: str) -> dict[str, Any]:
    """Circumstances of figures: command, date, machine, versions."""
    return {
        "command": command,
        "date": datetime.date.today().isoformat(),
        "machine": {
            "processor": processor_name(),
            "memory_bytes": host_memory_bytes(),
            "system": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
            **_cards(),
        },
        "versions": {"autofit": __version__, **installed_versions()},
    }


def _cards() -> dict[str, Any]:
    """The GPUs and their driver, where there are any."""
    visible = nvml.visible_indices()
    found = [nvml.name_and_memory(index) for index in visible]
    cards = [{"name": card[0], "memory_bytes": card[1]} for card in found if card is not None]
    return {"gpus": cards, "driver": nvml.driver_version()} if cards else {}


def write_results(name: str, figures: dict[str, Any], path: Path | None = None) -> Path:
    """Write ``results/NAME.json`` (or ``path``) and say where."""
    content = {"benchmark": name, **about(" ".join(sys.orig_argv[1:])), **figures}
    target = path or RESULTS / f"{name}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(f"\nWrote {target}")
    return target


def read_results(path: Path) -> dict[str, Any]:
    """The document that ``write_results`` wrote."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def spreads(rows: Sequence[Mapping[str, Any]], names: Iterable[str]) -> dict[str, list[float]]:
    """Median, least and most of each of these figures."""
    return {name: spread([row[name] for row in rows]) for name in names}


def spread(values: Sequence[float]) -> list[float]:
    """Median, least and most."""
    return [statistics.median(values), min(values), max(values)]


def measuring_seconds(measurement: Measurement) -> float:
    """Seconds of a trial's warm-up and timed steps; the rest is its overhead."""
    return sum(step.total for step in measurement.warmup) + sum(window.wall_seconds for window in measurement.windows)
