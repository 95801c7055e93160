"""What fails in the GPU suite is said, and does not end it."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.gpu.bench import attempt


def test_what_raises_is_a_row_with_its_reason_that_is_not_complete(capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> dict[str, Any]:
        raise RuntimeError("the device is on fire")

    assert attempt("a sweep", broken) == {"failed": "RuntimeError: the device is on fire", "is_complete": False}
    assert "a sweep FAILED: the device is on fire" in capsys.readouterr().out


def test_what_goes_well_is_passed_on() -> None:
    assert attempt("a sweep", lambda: {"rows": 3}) == {"rows": 3}
