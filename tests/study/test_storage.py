"""Databases that are away for a while: calls that are made again, and those that fail for good."""

from __future__ import annotations

import sqlite3

import pytest
import sqlalchemy.exc
from optuna.exceptions import StorageInternalError

from autofit.study import storage
from autofit.study.storage import patiently

LOST = sqlalchemy.exc.OperationalError("select", {}, Exception("server closed the connection"))
LOST_IN_A_TRANSACTION = sqlalchemy.exc.PendingRollbackError("Can't reconnect until invalid transaction is rolled back.")
LOCKED = sqlalchemy.exc.OperationalError("insert", {}, sqlite3.OperationalError("database is locked"))
FULL = sqlalchemy.exc.OperationalError("insert", {}, sqlite3.OperationalError("database or disk is full"))


@pytest.mark.parametrize(
    ("cause", "passes"), [(LOST, True), (LOST_IN_A_TRANSACTION, True), (LOCKED, True), (FULL, False), (None, False)]
)
def test_a_database_that_comes_back_is_asked_again(
    cause: Exception | None, passes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "FIRST_PAUSE_SECONDS", 0.0)
    calls = 0

    def ask() -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise StorageInternalError("as Optuna raises it") from cause
        return calls

    if passes:
        assert patiently(ask) == 2
    else:
        with pytest.raises(StorageInternalError):
            patiently(ask)
