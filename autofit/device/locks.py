"""Locks: one search of a study at a time, and knowing of another search on the same device."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def held(path: Path) -> Iterator[int | None]:
    """A lock on ``path`` while the context lasts; yields None, or the process that holds it where another one does.

    The lock goes with the process, however that ends. The file stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            text = file.read().strip()
            yield int(text) if text.isdigit() else 0
            return
        except OSError:
            # A file system without locks: nobody can be told apart, and nobody is kept out.
            yield None
            return
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield None
