"""``autofit.attach(trainer)``: what ``autofit run --apply`` does, asked for in the program itself."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from autofit.driver.observer import Observer
from autofit.errors import UserError
from autofit.own_program import ProgramRequest, run_of, search_program
from autofit.report.own_program import changes_in_a_line
from autofit.runtime.recovery import give_memory_back, say
from autofit.trial.program import ATTACH, JOB_VARIABLE
from autofit.worker.program.hook import ATTACHED, make_ready
from autofit.worker.program.settings import models_of

_BY_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
_calls = itertools.count(1)


class _Says(Observer):
    """Prints what a search says in the log of the training."""

    def say(self, sentence: str) -> None:
        say(sentence.removesuffix("."))


def attach(trainer: Any, *, observer: Observer | None = None, **options: Any) -> Any:
    """Search around a Trainer that is about to train, and put the winner into it, guarded against out-of-memory.

    To be called before ``trainer.train()``, once its arguments are final. The program is started again for the search,
    by the command it was started with, and stopped where this Trainer trains: what it does before then happens once
    more, other Trainers' ``train()`` left out. A second run of the program answers from the study. ``options`` are
    those of ``autofit run`` in Python's spelling: ``budget="5m"``, ``max_trials``, ``memory_limit``, ``numerics``,
    ``fix``, ``keep``, ... The allocator's settings stay the program's: they act only before torch is imported. Models
    of the Trainer that lie on the GPU are moved to the host for as long as the search takes.

    Returns the same Trainer; ``autofit.load(study)`` gives the result. Under ``autofit run``, and in the copy that a
    search started, nothing is done. Raises UserError where the program cannot be started again (a notebook, a process
    that a launcher started) and for what ``autofit run`` refuses; NothingFitsError, with the Trainer as it was, where
    every configuration failed; KeyboardInterrupt for Ctrl-C, with everything measured kept.
    """
    number = next(_calls)
    setattr(trainer, ATTACHED, f"{ATTACH}{number}")
    if JOB_VARIABLE in os.environ:
        return trainer
    command = own_command()
    given = {"device": "cpu"} if trainer.args.use_cpu else {}
    keep = tuple({*options.pop("keep", ()), "allocator"})
    request = ProgramRequest(command=command, keep=keep, attach_call=number, **{**given, **options})
    with _off_the_device(trainer):
        result = search_program(request, observer or _Says())
    if result.interrupted:
        raise KeyboardInterrupt
    if result.recommendation is None:
        say("nothing was measured before the search ended; training with your own settings")
        return trainer
    if result.recommendation.warning:
        say(result.recommendation.warning.removesuffix("."))
    say(f"training with {changes_in_a_line(result)}")
    make_ready(trainer, run_of(result))
    return trainer


def own_command() -> tuple[str, ...]:
    """The command of this very process. Raises UserError where it would not start the same program again."""
    if any(name in os.environ for name in _BY_LAUNCHER):
        raise UserError(
            "autofit.attach cannot start a launcher's processes again: put autofit in front of it instead "
            "(autofit run --apply -- torchrun ...)."
        )
    words = sys.orig_argv[1:]
    script = getattr(sys.modules["__main__"], "__file__", None)
    is_interactive = "ipykernel" in sys.modules or hasattr(sys, "ps1") or sys.flags.interactive
    if is_interactive or (script is None and "-c" not in words):
        raise UserError(
            "autofit.attach starts the program again, which a notebook or an interactive Python cannot: put it into a "
            "file, or search with autofit.search(...)."
        )
    # By its whole path: the program may have gone to another folder since.
    return (
        sys.executable,
        *(str(Path(script).absolute()) if word == sys.argv[0] and script else word for word in words),
    )


@contextlib.contextmanager
def _off_the_device(trainer: Any) -> Iterator[None]:
    """Give the trials the memory that models take, where these can be moved: the Trainer has placed them already."""
    moved = []
    for model in models_of(trainer):
        devices = {weight.device for weight in model.parameters() if weight.device.type not in ("cpu", "meta")}
        if not devices:
            continue
        if len(devices) > 1 or getattr(model, "is_quantized", False) or hasattr(model, "hf_device_map"):
            say(f"{type(model).__name__} stays on the GPU while trials run, which have its memory less")
            continue
        moved.append((model, *devices))
        model.to("cpu")
    if moved:
        give_memory_back()
    try:
        yield
    finally:
        for model, device in moved:
            model.to(device)
