"""``autofit.search_training(build_model, train_dataset, ...)``: a search around parts of a training, without a program.

The parts are written to a folder, and a program of a few lines puts them together in a Trainer: from there it is the
search of ``autofit run``.
"""

from __future__ import annotations

import hashlib
import inspect
import io
import os
import pickle
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from autofit.api import SearchResult
from autofit.driver.observer import Observer
from autofit.errors import UserError
from autofit.job.record import home
from autofit.knobs.baseline import DEFAULT_MICRO_BATCH
from autofit.own_program import ProgramRequest, search_program
from autofit.report.notebook import default_observer

PROGRAM = '''\
"""Written by autofit: a Trainer of the parts beside it."""

from autofit.worker.program.parts import trainer_of

if __name__ == "__main__":
    trainer_of(__file__).train()
'''


def search_training(
    build_model: Callable[[], Any],
    train_dataset: Any,
    *,
    effective_batch: int,
    data_collator: Callable[..., Any] | None = None,
    compute_loss_func: Callable[..., Any] | None = None,
    training_arguments: Mapping[str, Any] | None = None,
    observer: Observer | None = None,
    **options: Any,
) -> SearchResult:
    """Find the fastest configuration that fits for a model and data of your own, at exactly ``effective_batch``.

    ``build_model`` returns the model to train: any torch module whose forward pass returns a loss, or with
    ``compute_loss_func`` (as ``transformers.Trainer`` takes it) anything. ``train_dataset`` is a data set, or a
    function that returns it. ``training_arguments`` are those that you train with now, which the others are compared
    with. ``options`` are those of ``autofit run`` in Python's spelling: ``budget``, ``max_trials``, ``memory_limit``,
    ``device``, ``fix``, ``keep``, ...

    What changes is ``result.recommendation.training_arguments``: train with ``{**yours, **those}``. Raises UserError
    where the trials, which are other processes, could not import a part, and what ``autofit.search`` raises.
    """
    parts = {
        "build_model": build_model,
        "train_dataset": train_dataset,
        "data_collator": data_collator,
        "compute_loss_func": compute_loss_func,
        "training_arguments": _arguments(effective_batch, training_arguments or {}),
    }
    pickled = {name: _pickled(name, part) for name, part in parts.items() if part is not None}
    program = _written(pickled, getattr(build_model, "__name__", type(build_model).__name__))
    request = ProgramRequest(command=(sys.executable, str(program)), **options)
    return search_program(request, observer or default_observer())


def _arguments(effective_batch: int, given: Mapping[str, Any]) -> dict[str, Any]:
    """TrainingArguments at the effective batch. Raises UserError where those that are given have another."""
    arguments = dict(given)
    size, steps = (arguments.get(name) for name in ("per_device_train_batch_size", "gradient_accumulation_steps"))
    if size is None:
        divisors = range(1, min(DEFAULT_MICRO_BATCH, effective_batch) + 1)
        size = max((each for each in divisors if effective_batch % (each * (steps or 1)) == 0), default=1)
    if steps is None:
        steps = max(1, effective_batch // size)
    if size * steps != effective_batch:
        raise UserError(
            f"training_arguments make {size} x {steps} = {size * steps} samples a step, not effective_batch="
            f"{effective_batch}; leave the two out, or make them agree."
        )
    return {**arguments, "per_device_train_batch_size": size, "gradient_accumulation_steps": steps}


class _DefinedHereError(Exception):
    """Something is defined in the module that was started."""


class _Importable(pickle.Pickler):
    """Refuses what another process could not import: pickles name functions and classes by their module."""

    def reducer_override(self, part: Any) -> Any:
        if (inspect.isfunction(part) or inspect.isclass(part)) and part.__module__ == "__main__":
            raise _DefinedHereError
        return NotImplemented


def _pickled(name: str, part: Any) -> bytes:
    """A part as another process can have it. Raises UserError where it cannot."""
    file = io.BytesIO()
    try:
        _Importable(file).dump(part)
    except _DefinedHereError:
        raise UserError(
            f"{name} is defined in the notebook or the program that was started, or has something of it, which the "
            "trials, being other processes, cannot import: put it into a module (in a notebook: %%writefile parts.py)."
        ) from None
    except Exception as error:  # noqa: BLE001 - pickling calls whatever code the part has
        is_local = inspect.isfunction(part)
        reason = "is a lambda or a function inside another" if is_local else f"cannot be copied: {error}"
        raise UserError(
            f"{name} {reason}, so the trials, which are other processes, cannot have it: make it a function of a "
            "module."
        ) from None
    return file.getvalue()


def _written(pickled: Mapping[str, bytes], name: str) -> Path:
    """The program beside its parts, in a folder that is the same for the same parts."""
    digest = hashlib.sha256(msgspec.json.encode(sorted(pickled.items()))).hexdigest()[:16]
    folder = home() / "trainings" / digest
    folder.mkdir(parents=True, exist_ok=True)
    for part, content in pickled.items():
        (folder / f"{part}.pickle").write_bytes(content)
    # A notebook finds its own folder by an empty entry.
    paths = [os.path.abspath(path) for path in sys.path]  # noqa: PTH100 - of an entry that may be no folder
    (folder / "paths.json").write_bytes(msgspec.json.encode(paths))
    # A name that no module of the user's has.
    program = folder / f"autofit_{name}.py"
    program.write_text(PROGRAM, encoding="utf-8")
    return program
