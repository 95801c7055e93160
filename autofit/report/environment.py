"""The environment as Markdown to paste into a bug report: no path, no token, no name of a user or host."""

from __future__ import annotations

import platform

from autofit.device import nvml
from autofit.device.kinds import kind_of
from autofit.device.versions import set_variables
from autofit.job.situation import Situation
from autofit.knobs import KNOBS
from autofit.knobs.space import why_unavailable
from autofit.units import format_bytes
from autofit.version import __version__


def environment_report(situation: Situation) -> str:
    """Versions, device, variables that change speed, and the choices that are unavailable with their reasons."""
    device = situation.device
    driver = nvml.driver_version()
    lines = [
        "### Environment",
        "",
        f"* autofit {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}",
        f"* {kind_of(device).label(device.index)}: {device.name}, {format_bytes(device.memory_bytes)}"
        + (f", compute capability {'.'.join(map(str, device.compute_capability))}" if device.compute_capability else "")
        + (f", driver {driver}" if driver else ""),
        f"* {', '.join(f'{name} {version}' for name, version in situation.libraries.versions.items())}",
        f"* variables: {', '.join(_shown(*each) for each in set_variables().items()) or 'none that changes speed'}",
        "* unavailable:",
    ]
    for row in KNOBS:
        for choice in row.choices:
            reason = why_unavailable(row, choice, situation)
            if reason is not None:
                lines.append(f"  * {row.name}={choice.value}: {reason}")
    return "\n".join(lines) + "\n"


def _shown(name: str, value: str) -> str:
    """A variable; of a path only that it is set."""
    return f"{name} is set" if "/" in value else f"{name}={value}"
