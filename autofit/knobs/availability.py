"""Reasons that several knobs share."""

from __future__ import annotations

from autofit.job.situation import Situation
from autofit.knobs.knob import Unavailable


def needs_cuda(what: str, capability: tuple[int, int] = (0, 0)) -> Unavailable:
    """``what`` needs a GPU of at least this compute capability."""

    def unavailable(situation: Situation) -> str | None:
        device = situation.device
        if device.kind != "cuda":
            return f"{what} needs a GPU"
        if device.compute_capability is not None and device.compute_capability < capability:
            have = ".".join(map(str, device.compute_capability))
            return f"{what} needs compute capability {capability[0]}.{capability[1]}; {device.name} has {have}"
        return None

    return unavailable


def missing(feature: str) -> Unavailable:
    """The worker's reason why a package or feature is unavailable, where it gave one."""
    return lambda situation: situation.libraries.missing.get(feature)


def first_of(*reasons: Unavailable) -> Unavailable:
    """The first reason that applies."""
    return lambda situation: next(filter(None, (reason(situation) for reason in reasons)), None)
