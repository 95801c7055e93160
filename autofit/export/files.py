"""Files that are written for the user: their paths checked beforehand, their content replaced as a whole."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from autofit.errors import UserError

STDOUT = Path("/dev/stdout")
"""Standard output, which "-" names as in other commands."""


def check_path(path: Path, option: str, *, force: bool) -> Path:
    """The path, if it can be written; ``option`` is what gave it.

    Raises UserError where it cannot, and where a file is there already, unless ``force`` allows to overwrite it.
    """
    if path.is_dir():
        raise UserError(f"{option}: '{path}' is a directory; give a file in it.")
    if not path.parent.is_dir():
        raise UserError(f"{option}: no directory '{path.parent}': create it or choose another path.")
    if path.is_file() and not force:
        raise UserError(f"{option}: '{path}' exists; choose another path, or overwrite it with --force.")
    # A file is replaced, so it is its folder that has to be writable.
    if not os.access(path if path.exists() and not path.is_file() else path.resolve().parent, os.W_OK):
        raise UserError(f"{option}: '{path}' is not writable; choose another path.")
    return path


def write_file(path: Path, content: str | bytes) -> None:
    """Replace a file as a whole, through a link where the path is one; write to anything else (a pipe, a device).

    Raises UserError where the disk refuses.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)
            return
        target = path.resolve()
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            temporary.write_bytes(data)
            if target.exists():
                shutil.copymode(target, temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"'{path}' could not be written: {error.strerror}.") from None
