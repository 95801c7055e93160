"""Starting a user's own program under the hook, from the parent's side: to fork trials from it, or once per trial."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import psutil

from autofit.device.device import Device
from autofit.device.kinds import kind_of
from autofit.errors import UserError, printable
from autofit.trial.launcher import (
    ForkServer,
    FreshInterpreters,
    Launcher,
    refuse_unsafe_forks,
    start_quietly,
)
from autofit.trial.protocol import ProgramRunJob, write_document

JOB_VARIABLE = "AUTOFIT_PROGRAM_JOB"
"""Path of the job that a program runs at the entry of ``train()``; the hook's marks lie beside it."""
SOCKET_VARIABLE = "AUTOFIT_PROGRAM_SOCKET"
"""Path of the socket on which a program waits for jobs, and forks a worker for each."""
TRAINER_VARIABLE = "AUTOFIT_PROGRAM_TRAIN_CALL"
"""The call of ``train()`` that is meant: its number, from 1, or ``attach-N``."""
ATTACH = "attach-"
"""The call that is meant is that of the Trainer which the program's N-th ``autofit.attach`` was given."""
HOOKED, PATCHED, PROBLEM = ".hooked", ".patched", ".problem"
"""Marks: a Python with the hook in it began; it imported the Trainer; it cannot go on, with a sentence why."""

HOOK_FOLDER = Path(__file__).parents[1] / "worker" / "hook"
MOST_LOG_BYTES = 64 * 1024**2
LAST_LINES = 15
LAUNCHER = r"torch/distributed/elastic/multiprocessing/api\.py:\d+\] (failed \(exitcode|(Sending|Closing) process)"
"""A log's line in which torchrun tells of a failed process; its own traceback follows."""
_SILENT = {
    "WANDB_MODE": "disabled",
    "COMET_MODE": "disabled",
    "DISABLE_MLFLOW_INTEGRATION": "TRUE",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
    # Lets torch answer "is there a GPU" without opening it, which every forked worker would inherit.
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}
"""Variables that a program gets on top of its own in trials."""
_ONE_ARENA = {"MALLOC_ARENA_MAX": "1"}
"""Forked workers train in a thread that is not the main one, and glibc gives such threads heaps of their own, which are
slower to grow: steps took 9 to 13 % more in two of three pairs, and with one heap for all within 1 % of a plain run."""


def under_hook(environment: dict[str, str]) -> dict[str, str]:
    """An environment whose Pythons load the hook; the folder holds nothing else, so it hides no module."""
    path = os.pathsep.join(filter(None, [str(HOOK_FOLDER), environment.get("PYTHONPATH")]))
    return {**environment, "PYTHONPATH": path}


def run_program(
    command: Sequence[str], job: ProgramRunJob, *, train_call: str = "1", device: Device | None = None
) -> int:
    """Run a program to its end under the hook, on our own terminal; its exit code, 128 + N for signal N.

    ``device`` is the one to show it; all of them where it is None. Signals that would end us end the program, which
    may save what it has. Raises UserError where it cannot be started, or ended without the hook.
    """
    with tempfile.TemporaryDirectory(prefix="autofit-") as folder:
        path = Path(folder) / "program.json"
        write_document(path, job)
        variables = {JOB_VARIABLE: str(path), TRAINER_VARIABLE: train_call}
        environment = under_hook({**os.environ, **_visible(device), **job.environment, **variables})
        try:
            process = subprocess.Popen(command, env=environment)
        except OSError as error:
            raise UserError(f"'{command[0]}' cannot be started: {error.strerror}.") from None
        with _signals_passed_on(process):
            code = process.wait()
        if path.with_suffix(PROBLEM).exists():
            raise UserError(path.with_suffix(PROBLEM).read_text(encoding="utf-8"))
        if code == 0 and not path.with_suffix(PATCHED).exists():
            raise UserError(
                "The program ended without autofit: nothing was changed in it or guarded, as its Python did not load "
                "the hook or the Trainer."
            )
    return code if code >= 0 else 128 - code


@contextlib.contextmanager
def _signals_passed_on(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Have the program end by the signals that would end us. A terminal gives Ctrl-C to both already."""

    def pass_on(number: int, frame: object) -> None:
        if number != signal.SIGINT or not sys.stdin.isatty():
            process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _visible(device: Device | None) -> dict[str, str]:
    """Variables that show a program one device, by the driver's number."""
    if device is None:
        return {}
    return {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": kind_of(device).visible(device.index),
    }


class ProgramStarts:
    """Source of the workers of a user's own program.

    ``train_call`` is the call that is meant, as ``TRAINER_VARIABLE`` has it; ``device`` is the one to show it, None
    shows all.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        train_call: str = "1",
        start_seconds: float = 600.0,
        device: Device | None = None,
    ) -> None:
        self._command = tuple(command)
        self.start_seconds = start_seconds
        self._environment = under_hook({**os.environ, **_visible(device), **_SILENT, TRAINER_VARIABLE: train_call})

    def server(self, log: Path) -> ForkServer:
        return ProgramServer(self._command, self._environment, log)

    def fresh(self, environment: dict[str, str]) -> Launcher:
        return FreshPrograms(self._command, {**self._environment, **environment})

    def has(self, environment: dict[str, str]) -> bool:
        return all(os.environ.get(name) == value for name, value in environment.items())


class ProgramServer(ForkServer):
    """The program itself, stopped at the entry of ``train()``, forking a worker for every job.

    Raises LaunchError where it cannot be forked, UserError where it never comes to ``train()``.
    """

    def __init__(self, command: tuple[str, ...], environment: dict[str, str], log: Path) -> None:
        refuse_unsafe_forks()
        # The path of a socket has at most 107 bytes, which a study's folder may exceed.
        self._folder = Path(tempfile.mkdtemp(prefix="autofit-"))
        self._marks = self._folder / "program"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._folder / "socket"))
        self._listener.listen(1)
        variables = {JOB_VARIABLE: str(self._marks), SOCKET_VARIABLE: str(self._folder / "socket")}
        with log.open("wb") as output:
            try:
                process = start_quietly(command, output, {**_ONE_ARENA, **environment, **variables})
            except OSError as error:
                self._clear()
                raise UserError(f"'{command[0]}' cannot be started: {error.strerror}.") from None
        super().__init__(process, self._listener, log)

    def await_ready(self, seconds: float = 600.0) -> None:
        if not self._ready:
            self._connection = self._accepted(seconds)
        super().await_ready(seconds)

    def close(self) -> None:
        # First, while its descendants can be found: a launcher's would outlive it, and a script would go on.
        kill_all(self._process)
        super().close()
        self._clear()

    def _accepted(self, seconds: float) -> socket.socket:
        """The program's end of the line. Raises UserError where the program does something else than train."""
        deadline = time.monotonic() + seconds
        self._listener.settimeout(0.05)
        while True:
            with contextlib.suppress(TimeoutError):
                return self._listener.accept()[0]
            why = None
            code = self._process.poll()
            if code is not None:
                why = why_it_did_not_train(code, self._marks, self._log)
            elif time.monotonic() > deadline:
                why = f"The program had not called Trainer.train() after {seconds:.0f} s; give it more --start-timeout."
            elif self._log.stat().st_size > MOST_LOG_BYTES:
                why = f"The program printed more than {MOST_LOG_BYTES >> 20} MiB before it trained, and was ended."
            if why is not None:
                self.close()
                raise UserError(why)

    def _clear(self) -> None:
        self._listener.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class FreshPrograms(FreshInterpreters):
    """The program started anew for every job, with all processes that its launcher starts."""

    def __init__(self, command: tuple[str, ...], environment: dict[str, str]) -> None:
        super().__init__(environment, command)

    def _popen(self, job_path: Path, log: BinaryIO) -> subprocess.Popen[bytes]:
        for mark in (HOOKED, PATCHED, PROBLEM):
            job_path.with_suffix(mark).unlink(missing_ok=True)
        return start_quietly(self._command, log, {**self._environment, JOB_VARIABLE: str(job_path)})

    def kill(self) -> None:
        if self._process is not None:
            kill_all(self._process)


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """Kill a process's group and its descendants: launchers put their children into groups of their own."""
    for child in descendants(process):
        with contextlib.suppress(psutil.Error):
            child.kill()
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def descendants(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Every process that came from one that has not been reaped yet."""
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.Error:
        return []


def why_it_did_not_train(code: int, marks: Path, log: Path) -> str:
    """The sentence for a program that ended before it called ``Trainer.train()``."""
    its_words = last_lines(log)
    if marks.with_suffix(PROBLEM).exists():
        return marks.with_suffix(PROBLEM).read_text(encoding="utf-8")
    if code and "\nEOFError" in its_words:
        return f"The program asks for input, and trials have nobody to answer: give it as arguments.{its_words}"
    if code:
        how = f"ended with exit code {code}" if code > 0 else f"was ended by signal {-code}"
        return f"The program {how} before it called Trainer.train().{its_words}"
    if not marks.with_suffix(HOOKED).exists():
        return (
            "autofit's hook was not loaded: the command started no Python that takes PYTHONPATH. python -I, -E and -S, "
            "env -i, sudo and containers keep it out; put autofit inside them instead (docker run ... autofit run -- "
            "python train.py)."
        )
    if not marks.with_suffix(PATCHED).exists():
        return (
            "The program ended without importing transformers' Trainer. autofit runs what ends in Trainer.train() or "
            "in a subclass's, such as TRL's; a training loop of your own has to be searched as a model: autofit MODEL "
            f"--effective-batch N.{its_words}"
        )
    return (
        "The program ended, and Trainer.train() was never called; leave the arguments that make it train (--do_train, "
        f"say).{its_words}"
    )


def last_lines(log: Path) -> str:
    """Last lines of a program's output, to go behind a sentence; not what torchrun adds when a process has failed."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    of_launcher = (place for place, line in enumerate(lines) if re.search(LAUNCHER, line))
    lines = lines[: next(of_launcher, None)] or lines
    shown = printable("\n".join(lines[-LAST_LINES:]))
    return f" Its last lines:\n{shown}\n" if shown else " It printed nothing."
