"""What people take away: one file per format, one line in ``EXPORTERS`` each."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from autofit.errors import UserError
from autofit.export import json_document, training_arguments
from autofit.study.result import Result

EXPORTERS: dict[str, Callable[[Result], str]] = {
    "training-arguments": training_arguments.serialize,
    "json": json_document.serialize,
}
"""Format -> a function from a result to a file's text. It opens no file."""


def parse_export(text: str, *, force: bool = False) -> tuple[str, Path]:
    """``FORMAT=PATH`` -> both, checked now so that an hour of measuring does not end in a typing error.

    Raises UserError for an unknown format, a path that cannot be written, and a file that is there already, unless
    ``force`` allows to overwrite it.
    """
    name, separator, path_text = text.partition("=")
    if name not in EXPORTERS or not separator or not path_text:
        raise UserError(f"--export takes FORMAT=PATH with a format of {', '.join(EXPORTERS)}; not '{text}'.")
    path = Path(path_text).expanduser()
    if path.is_dir():
        raise UserError(f"--export {name}: '{path}' is a directory; give a file in it.")
    if not path.parent.is_dir():
        raise UserError(f"--export {name}: no directory '{path.parent}': create it or choose another path.")
    if path.is_file() and not force:
        raise UserError(f"--export {name}: '{path}' exists; choose another path, or overwrite it with --force.")
    # A file is replaced, so it is its folder that has to be writable.
    if not os.access(path if path.exists() and not path.is_file() else path.resolve().parent, os.W_OK):
        raise UserError(f"--export {name}: '{path}' is not writable; choose another path.")
    return name, path


def write_export(result: Result, name: str, path: Path) -> None:
    """Write one format. Raises UserError where there is nothing to export, or the disk refuses.

    A file is replaced as a whole, through a link where the path is one; anything else (a pipe, a device) is written to.
    """
    text = EXPORTERS[name](result)
    try:
        if path.exists() and not path.is_file():
            with path.open("w", encoding="utf-8") as file:
                file.write(text)
            return
        target = path.resolve()
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            temporary.write_text(text, encoding="utf-8")
            if target.exists():
                shutil.copymode(target, temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"'{path}' could not be written: {error.strerror}.") from None
