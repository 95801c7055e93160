"""Exporters: one file per format, one line in ``EXPORTERS`` each."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Sequence
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
from autofit.export.exported import Exported, check_is_causal, refuse_program
from autofit.export.files import STDOUT, check_path, write_file
from autofit.job.situation import Situation
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
OF_CAUSAL_MODELS = ("trl", "trl-python", "axolotl", "llama-factory", "ms-swift", "unsloth")
"""Formats of trainers of causal language models, for jobs by a model's name alone."""
FOR_NODES = ("training-arguments", "yaml", "slurm")
"""Formats that are written for several nodes, too."""
IMPORTED = ("accelerate", "bitsandbytes", "datasets", "peft", "torch", "transformers", "trl")
"""Packages that exported Python files import, and that a file of such a name in the same folder would hide."""
_YAML = ("yaml", "trl", "axolotl", "llama-factory", "ms-swift", "unsloth", "accelerate")
BY_SUFFIX = {
    ".py": ("training-arguments", "trl-python"),
    ".yaml": _YAML,
    ".yml": _YAML,
    ".json": ("json", "deepspeed"),
    ".md": ("markdown",),
    ".csv": ("csv",),
    ".sh": ("slurm",),
}
"""Formats of files with a suffix; the first is that of a path that is given without one."""


def parse_export(text: str, *, force: bool = False, takes_stdout: bool = False) -> tuple[str, Path]:
    """``FORMAT=PATH``, or a path whose suffix says the format -> both, checked before an hour of measuring.

    ``-`` is standard output where ``takes_stdout`` says that nothing else is printed there. Raises UserError for an
    unknown format, a suffix that files of other formats have, a path that cannot be written, and a file that is there
    already, unless ``force`` allows to overwrite it.
    """
    name, separator, path_text = text.partition("=")
    if not separator and Path(text).suffix in BY_SUFFIX:
        name, separator, path_text = BY_SUFFIX[Path(text).suffix][0], "=", text
    if not separator and name not in EXPORTERS:
        raise UserError(
            f"'{text}' does not say in which format: write FORMAT={text}, with a format of {', '.join(EXPORTERS)}, or "
            f"a path that ends in {', '.join(BY_SUFFIX)}."
        )
    if name not in EXPORTERS:
        near = difflib.get_close_matches(name, EXPORTERS, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UserError(f"There is no export format '{name}'.{hint} The formats are {', '.join(EXPORTERS)}.")
    if not path_text:
        raise UserError(f"'{text}' names no file; write {name}=PATH.")
    path = STDOUT if path_text == "-" else Path(path_text).expanduser()
    if path == STDOUT:
        if not takes_stdout:
            raise UserError(f"'{text}': the table is printed there; 'autofit export {text}' prints this one.")
        return name, path
    formats = BY_SUFFIX.get(path.suffix, (name,))
    if name not in formats:
        suffixes = [suffix for suffix, members in BY_SUFFIX.items() if name in members]
        raise UserError(
            f"{name} writes no {path.suffix} file: write {name}={path.with_suffix(suffixes[0])}, or "
            f"{formats[0]}={path_text}."
        )
    if path.suffix == ".py" and path.stem in IMPORTED:
        raise UserError(f"A file named {path.name} would be imported in place of {path.stem}; choose another name.")
    return name, check_path(path, f"The export {name}", force=force)


def parse_exports(texts: Sequence[str], *, force: bool = False, takes_stdout: bool = False) -> list[tuple[str, Path]]:
    """Several at once. Raises UserError as ``parse_export`` does, and where two are one file."""
    exports = [parse_export(text, force=force, takes_stdout=takes_stdout) for text in texts]
    paths = [path.resolve() for _, path in exports if path != STDOUT]
    if len(exports) - len(paths) > 1:
        raise UserError("Two exports would be printed into each other; give one of them a path.")
    twice = next((path for path in paths if path.is_file() is path.exists() and paths.count(path) > 1), None)
    if twice is not None:
        raise UserError(f"Two exports would be written to '{twice.name}'; give each a path of its own.")
    return exports


def check_programs_exports(exports: Sequence[tuple[str, Path]]) -> None:
    """Raises UserError for a format that programs have a file of their own for."""
    for name, _ in exports:
        if name in OF_CAUSAL_MODELS:
            refuse_program(name)


def check_exports(exports: Sequence[tuple[str, Path]], situation: Situation) -> None:
    """Raises UserError, before anything is measured, for a format that holds no result of what is searched."""
    for name, _ in exports:
        if name in OF_CAUSAL_MODELS:
            check_is_causal(situation, name)


def write_export(result: Result, name: str, path: Path) -> tuple[str, ...]:
    """Write one format; what it leaves out of the measured configuration.

    Raises UserError where there is nothing to export, the format is for one node, or the disk refuses.
    """
    if result.nodes > 1 and name not in FOR_NODES:
        raise UserError(f"{name} is exported for one node; --nodes goes with {', '.join(FOR_NODES)}.")
    if result.nodes > 1 and result.situation.program is not None:
        raise UserError("--nodes is for models by name; a program's own launcher says on how many nodes it runs.")
    exported = EXPORTERS[name](result)
    if path == STDOUT:
        sys.stdout.write(exported.text)
    else:
        write_file(path, exported.text)
    return exported.left_out
