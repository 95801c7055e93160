"""Exporters: one file per format, one line in ``EXPORTERS`` each."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from autofit.errors import UserError
from autofit.export import (
    axolotl,
    csv_table,
    json_document,
    llama_factory,
    markdown,
    training_arguments,
    trl,
    yaml_arguments,
)
from autofit.export.exported import Exported
from autofit.study.result import Result

EXPORTERS: dict[str, Callable[[Result], Exported]] = {
    "training-arguments": training_arguments.serialize,
    "yaml": yaml_arguments.serialize,
    "trl": trl.serialize,
    "axolotl": axolotl.serialize,
    "llama-factory": llama_factory.serialize,
    "json": json_document.serialize,
    "markdown": markdown.serialize,
    "csv": csv_table.serialize,
}
"""Format -> a function from a result to a file's text. It opens no file."""
BY_SUFFIX = {
    ".py": "training-arguments",
    ".yaml": "yaml",
    ".yml": "yaml",
    ".json": "json",
    ".md": "markdown",
    ".csv": "csv",
}
"""The format of a path that is given without one."""


def parse_export(text: str, *, force: bool = False) -> tuple[str, Path]:
    """``FORMAT=PATH``, or a path whose suffix says the format -> both, checked before an hour of measuring.

    Raises UserError for an unknown format, a path that cannot be written, and a file that is there already, unless
    ``force`` allows to overwrite it.
    """
    name, separator, path_text = text.partition("=")
    if not separator and Path(text).suffix in BY_SUFFIX:
        name, separator, path_text = BY_SUFFIX[Path(text).suffix], "=", text
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


def write_export(result: Result, name: str, path: Path) -> tuple[str, ...]:
    """Write one format; what it leaves out of the measured configuration.

    Raises UserError where there is nothing to export, or the disk refuses.
    """
    exported = EXPORTERS[name](result)
    _write(path, exported.text)
    return exported.left_out


def _write(path: Path, text: str) -> None:
    """Replace a file as a whole, through a link where the path is one; write to anything else (a pipe, a device)."""
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
