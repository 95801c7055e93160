"""Exporters: one file per format, one line in ``EXPORTERS`` each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from autofit.errors import UserError
from autofit.export import (
    accelerate_config,
    axolotl,
    csv_table,
    deepspeed_config,
    json_document,
    llama_factory,
    markdown,
    ms_swift,
    slurm,
    training_arguments,
    trl,
    trl_python,
    unsloth,
    yaml_arguments,
)
from autofit.export.exported import Exported
from autofit.export.files import check_path, write_file
from autofit.study.result import Result

EXPORTERS: dict[str, Callable[[Result], Exported]] = {
    "training-arguments": training_arguments.serialize,
    "yaml": yaml_arguments.serialize,
    "trl": trl.serialize,
    "trl-python": trl_python.serialize,
    "axolotl": axolotl.serialize,
    "llama-factory": llama_factory.serialize,
    "ms-swift": ms_swift.serialize,
    "unsloth": unsloth.serialize,
    "accelerate": accelerate_config.serialize,
    "deepspeed": deepspeed_config.serialize,
    "slurm": slurm.serialize,
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
    return name, check_path(path, f"--export {name}", force=force)


def write_export(result: Result, name: str, path: Path) -> tuple[str, ...]:
    """Write one format; what it leaves out of the measured configuration.

    Raises UserError where there is nothing to export, or the disk refuses.
    """
    exported = EXPORTERS[name](result)
    write_file(path, exported.text)
    return exported.left_out
