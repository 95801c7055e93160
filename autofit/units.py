"""Sizes, durations and shares: read from what people type, printed for people to read.

Inside the package everything is bytes and seconds; only this file knows GiB and minutes.
"""

from __future__ import annotations

import math
import re

from autofit.errors import UserError

GIB = 1024**3
MIB = 1024**2

_BYTES = {
    "b": 1,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
    "tb": 1000**4,
    "kib": 1024,
    "mib": MIB,
    "gib": GIB,
    "tib": 1024**4,
    # A bare letter is the binary unit, as nvidia-smi and most people mean it.
    "k": 1024,
    "m": MIB,
    "g": GIB,
    "t": 1024**4,
}
_SECONDS = {"s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_NUMBER = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z%]*)\s*", re.IGNORECASE)
_DURATION = re.compile(r"\s*(?:\d+(?:\.\d+)?\s*[a-z]*\s*)+", re.IGNORECASE)
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.IGNORECASE)


def parse_bytes(text: str) -> int:
    """``24GiB``, ``24G``, ``24000MB`` -> bytes. Raises UserError for anything else, and for zero."""
    match = _NUMBER.fullmatch(text)
    unit = match.group(2).lower() if match else ""
    if match is None or unit not in _BYTES:
        raise UserError(f"'{text}' is not a size; write it like 24GiB, 800MiB or 16GB.")
    size = int(float(match.group(1)) * _BYTES[unit])
    if size <= 0:
        raise UserError(f"'{text}' is not a size above zero; write it like 24GiB.")
    return size


def parse_seconds(text: str) -> float:
    """``90``, ``90s``, ``10m``, ``1h30m`` -> seconds. Raises UserError for anything else, and for zero."""
    total = 0.0
    parts = _DURATION_PART.findall(text) if _DURATION.fullmatch(text) else []
    for number, unit in parts:
        factor = _SECONDS.get(unit.lower() or "s")
        if factor is None:
            parts = []
            break
        total += float(number) * factor
    if not parts or total <= 0:
        raise UserError(f"'{text}' is not a duration; write it like 90s, 10m or 1h30m.")
    return total


def seconds_of(given: str | float) -> float:
    """Seconds of a duration that is given as such or as text. Raises UserError."""
    return parse_seconds(given) if isinstance(given, str) else given


def parse_share(text: str) -> float:
    """``5%`` or ``0.05`` -> 0.05. Raises UserError outside 0 <= share < 0.9."""
    match = _NUMBER.fullmatch(text)
    if match is None or match.group(2) not in ("", "%"):
        raise UserError(f"'{text}' is not a share; write it like 5% or 0.05.")
    share = float(match.group(1)) / (100 if match.group(2) == "%" else 1)
    if not 0 <= share < 0.9:
        raise UserError(f"A headroom of {text} leaves too little memory; choose one from 0% to below 90%.")
    return share


def share_of(given: str | float) -> float:
    """A share that is given as such or as text. Raises UserError."""
    return parse_share(given) if isinstance(given, str) else given


def format_bytes(size: float) -> str:
    """Three significant digits: ``21.4 GiB``, ``612 MiB``."""
    sign = "-" if size < 0 else ""
    size = abs(size)
    for unit, factor in (("TiB", 1024 * GIB), ("GiB", GIB), ("MiB", MIB), ("KiB", 1024)):
        if size >= factor * 0.9995:
            return f"{sign}{_three_digits(size / factor)} {unit}"
    return f"{sign}{size:.0f} B"


def format_seconds(seconds: float) -> str:
    """Three significant digits: ``812 ms``, ``1.84 s``, ``2 min 05 s``, ``7 h 12 min``."""
    if seconds < 0.9995:
        return f"{_three_digits(seconds * 1000)} ms"
    if seconds < 120:
        return f"{_three_digits(seconds)} s"
    if seconds < 2 * 3600:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min"


def format_roughly(seconds: float) -> str:
    """A duration that is only guessed at, upwards: ``10 s``, ``50 s``, ``3 min``, ``2 h``."""
    if seconds <= 50:
        return f"{max(1, math.ceil(seconds / 10)) * 10} s"
    if seconds <= 95 * 60:
        return f"{math.ceil(seconds / 60)} min"
    return f"{math.ceil(seconds / 3600)} h"


def counted(number: int, noun: str) -> str:
    """A number of things in words: ``1 trial``, ``2 trials``; the noun is one that takes an s."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def format_count(number: int) -> str:
    """A large number in short: ``135M``, ``1.24B``; small ones as they are."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{_three_digits(number / size)}{letter}"
    return str(number)


def format_rate(rate: float) -> str:
    """A rate per second: three significant digits below 1000, whole and grouped above."""
    return f"{rate:,.0f}" if rate >= 1000 else _three_digits(rate)


def _three_digits(value: float) -> str:
    if value <= 0:
        return "0"
    value = float(f"{value:.3g}") if value < 1000 else value
    digits = max(0, 2 - math.floor(math.log10(value) + 1e-9))
    return f"{value:.{digits}f}"
