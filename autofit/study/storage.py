"""The databases that studies are kept in: opened, looked at first, and waited for where they come back."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import optuna
import sqlalchemy
import sqlalchemy.exc
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage

from autofit.errors import UserError
from autofit.job.record import home

OPTUNA_TABLE = "studies"
STORAGE_VARIABLE = "AUTOFIT_STORAGE"
"""Variable that holds the URL where none is given: a password in it is not seen in the list of processes."""
HEARTBEAT_SECONDS, GRACE_SECONDS = 5, 30
"""Whoever takes part in a search beats so often, and counts as gone after so long a silence."""
PATIENCE_SECONDS = 300.0
"""A database that does not answer is asked again so long: a restart takes seconds, a failover a minute."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 2.0
_LOCKED = "database is locked"

Answer = TypeVar("Answer")


def patiently(call: Callable[[], Answer], again: Callable[[], Answer] | None = None) -> Answer:
    """The answer of ``call``, asked again while the database is away; raises its last error after that.

    An answer may be lost on its way although the call was carried out: ``again`` is asked in its place from the second
    time on, where carrying it out twice would not be the same as once.
    """
    give_up = time.monotonic() + PATIENCE_SECONDS
    pause = FIRST_PAUSE_SECONDS
    while True:
        try:
            return call()
        except (StorageInternalError, sqlalchemy.exc.DBAPIError) as error:
            if not _may_pass(error) or time.monotonic() + pause > give_up:
                raise
        call = again or call
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def _may_pass(error: BaseException) -> bool:
    """True for a lost connection, a server that starts, and a file that another process has locked."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, sqlalchemy.exc.DBAPIError):
        if isinstance(cause, sqlalchemy.exc.PendingRollbackError):
            return True  # the connection was lost inside a transaction, which Optuna has rolled back by now
        cause = cause.__cause__
    if cause is None:
        return False
    if isinstance(cause.orig, sqlite3.Error):
        return _LOCKED in str(cause.orig)
    return isinstance(cause, (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError))


def default_storage() -> str:
    """The URL in AUTOFIT_STORAGE, else the SQLite file in ``home()``."""
    if not os.environ.get(STORAGE_VARIABLE):
        folder = home()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{folder} cannot be made ({error.strerror}); set AUTOFIT_HOME to a folder that can."
            ) from None
    return _usual_storage()


def is_usual(url: str) -> bool:
    """True for the URL, as it may be shown, of the storage that commands look in where none is named."""
    return url == without_password(_usual_storage())


def _usual_storage() -> str:
    return os.environ.get(STORAGE_VARIABLE) or f"sqlite:///{home() / 'studies.db'}"


def without_password(url: str) -> str:
    """A storage URL as it may be shown."""
    try:
        return sqlalchemy.make_url(url).render_as_string(hide_password=True)
    except sqlalchemy.exc.ArgumentError:
        return url


def storage_at(url: str, *, must_exist: bool = False) -> RDBStorage | None:
    """The storage at a URL; None where ``must_exist`` and it holds nothing. Nothing is written into another's database.

    Raises UserError where it cannot be used.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        tables = _tables(url)
        if tables and OPTUNA_TABLE not in tables:
            raise ValueError(f"the database belongs to another program: it holds the table '{sorted(tables)[0]}'")
        return None if must_exist and not tables else _opened(url)
    except (sqlalchemy.exc.SQLAlchemyError, sqlite3.DatabaseError, RuntimeError, ValueError, ImportError) as error:
        first_line = (str(error).splitlines() or ["unknown"])[0].replace(url, without_password(url))
        raise UserError(
            f"{without_password(url)} is not a storage of studies ({first_line}); give a URL such as "
            "sqlite:///studies.db."
        ) from None


def is_file(url: str) -> bool:
    """True for SQLite, whose locks hold on one machine only."""
    return sqlalchemy.make_url(url).get_backend_name() == "sqlite"


def _opened(url: str) -> RDBStorage:
    engine: dict[str, Any] = {} if is_file(url) else {"pool_pre_ping": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return RDBStorage(url, engine_kwargs=engine, heartbeat_interval=HEARTBEAT_SECONDS, grace_period=GRACE_SECONDS)


def _tables(url: str) -> set[str]:
    """The tables of a database, which is only read; empty where there is none yet."""
    place = sqlalchemy.make_url(url)
    if is_file(url):
        if not place.database or not Path(place.database).exists():
            return set()
        with contextlib.closing(
            sqlite3.connect(f"{Path(place.database).absolute().as_uri()}?mode=ro", uri=True)
        ) as file:
            return {name for (name,) in file.execute("select name from sqlite_master where type = 'table'")}
    engine = sqlalchemy.create_engine(place)
    try:
        return set(sqlalchemy.inspect(engine).get_table_names())
    finally:
        engine.dispose()
