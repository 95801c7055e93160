"""What people take away: one file per format, one line in ``EXPORTERS`` each."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from autofit.errors import UserError
from autofit.export import json_document, training_arguments
from autofit.result import Result

EXPORTERS: dict[str, Callable[[Result], str]] = {
    "training-arguments": training_arguments.serialize,
    "json": json_document.serialize,
}
"""Format -> a function from a result to a file's text. It opens no file."""


def parse_export(text: str) -> tuple[str, Path]:
    """``FORMAT=PATH`` -> both, checked now so that an hour of measuring does not end in a typing error.

    Raises UserError for an unknown format or a path that cannot be written.
    """
    name, separator, path_text = text.partition("=")
    if name not in EXPORTERS or not separator or not path_text:
        raise UserError(f"--export takes FORMAT=PATH with a format of {', '.join(EXPORTERS)}; not '{text}'.")
    path = Path(path_text).expanduser()
    folder = path.parent
    if path.is_dir() or not folder.is_dir():
        what = "is a folder" if path.is_dir() else f"lies in {folder}, which is no folder"
        raise UserError(f"--export {name}: {path} {what}; give a file in a folder that exists.")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise UserError(f"--export {name}: {path} may not be written by you; choose another path.")
    return name, path


def write_export(result: Result, name: str, path: Path) -> None:
    """Write one format. Raises UserError where there is nothing to export, or the disk refuses."""
    text = EXPORTERS[name](result)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path} could not be written: {error.strerror}.") from None
