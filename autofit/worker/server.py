"""The trial server: imports torch and transformers once, then forks a child for every job.

``python -P -m autofit.worker.server FD`` talks JSON lines over the socket with that number. It opens no
device and runs no tensor operation: either would be inherited, broken, by every child. When the socket
closes, whoever started it is gone; it kills the running child's group and ends.

Requests: ``{"job": path}`` and ``{"kill": pid}``. Messages: ``{"ready": true}`` or ``{"problem":
sentence}`` once, then ``{"started": pid}`` and ``{"ended": pid, "exit_code": code, "peak_resident": bytes}``
for each job, the code negative for a signal.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from autofit.device.host import reap
from autofit.device.kinds import kind_of
from autofit.trial.protocol import JobFiles, read_job
from autofit.worker import hidden_import

# What a child would otherwise import in its first second; found with python -X importtime in a child.
PRELOADED = (
    "torch",
    "torch._dynamo",
    "accelerate",
    "transformers.trainer",
    "transformers.trainer_callback",
    "transformers.models.auto.modeling_auto",
    "transformers.generation",
    "autofit.worker.job",
    "autofit.worker.measure",
    "autofit.worker.probe",
)


def main(arguments: list[str]) -> None:
    """Serve until the socket closes."""
    connection = socket.socket(fileno=int(arguments[0]))
    hidden_import.hide()
    for module in PRELOADED:
        importlib.import_module(module)
    problem = _what_opened_the_device() or why_not_fork(arguments[1])
    send(connection, {"problem": problem} if problem else {"ready": True})
    if problem is None:
        serve(connection, _prepare, _run)


def why_not_fork(device: str, begin: Callable[[], None] = lambda: None) -> str | None:
    """A sentence's end where children that are forked now cannot use the device: tried in one, after ``begin``."""
    if kind_of(device).is_host:
        return None
    child = os.fork()
    if child == 0:
        _open_device_and_exit(device, begin)
    return None if os.waitpid(child, 0)[1] == 0 else "a forked process could not open the device"


def _what_opened_the_device() -> str | None:
    from autofit.worker.accelerator import devices_untouched

    if not devices_untouched():
        return "importing the libraries opened the device"
    for package in hidden_import.OPENING_DEVICES:
        if package in sys.modules:
            return f"importing the libraries imported {package}, which opens the device"
    return None


def _open_device_and_exit(device: str, begin: Callable[[], None]) -> NoReturn:
    from autofit.worker.accelerator import accelerator_for

    code = 1
    try:
        begin()
        accelerator_for(device).facts()
        code = 0
    finally:
        os._exit(code)


def serve(connection: socket.socket, prepare: Callable[[Path], None], become: Callable[[Path], None]) -> None:
    """Answer requests until the socket closes: ``prepare`` runs here before a fork, ``become`` is the forked child."""
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    os.set_blocking(wake_read, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    running: int | None = None
    buffer = b""
    while True:
        readable = select.select([connection.fileno(), wake_read], [], [])[0]
        if wake_read in readable:
            with contextlib.suppress(BlockingIOError):
                os.read(wake_read, 4096)
        if running is not None and os.waitid(os.P_PID, running, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            exit_code, peak_resident = _end(running)
            send(connection, {"ended": running, "exit_code": exit_code, "peak_resident": peak_resident})
            running = None
        if connection.fileno() in readable:
            received = connection.recv(65536)
            if not received:
                break
            *lines, buffer = (buffer + received).split(b"\n")
            for line in lines:
                request = json.loads(line)
                if running is not None and request.get("kill") == running:
                    _kill_group(running)
                elif "job" in request:
                    job_path = Path(request["job"])
                    prepare(job_path)
                    running = _start(job_path, connection, become)
    if running is not None:
        _end(running)


def _start(job_path: Path, connection: socket.socket, become: Callable[[Path], None]) -> int:
    child = os.fork()
    if child == 0:
        _become_worker(job_path, connection, become)
    send(connection, {"started": child})
    return child


def _become_worker(job_path: Path, connection: socket.socket, become: Callable[[Path], None]) -> NoReturn:
    code = 1
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        connection.close()
        log = os.open(JobFiles(job_path).log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        become(job_path)
        code = 0
    except BaseException:  # nothing may return into the server's loop in a child
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run(job_path: Path) -> None:
    hidden_import.show()
    from autofit.worker.job import run_job

    run_job(job_path)


def _prepare(job_path: Path) -> None:
    with contextlib.suppress(Exception):  # a child that cannot read its job says so in its own log
        _preload_model(job_path)
    problem = _what_opened_the_device()
    if problem is not None:  # by the model's own module; who started us starts again, or does without us
        sys.exit(problem)


def _preload_model(job_path: Path) -> None:
    """Import the model's own module here, once, instead of in every child."""
    job = read_job(job_path)
    assert hasattr(job, "model"), "a program's own jobs are run inside the program"
    if job.model.needs_remote_code:
        return
    model_type = job.model.config["model_type"]
    from transformers.models.auto.configuration_auto import model_type_to_module_name

    importlib.import_module(f"transformers.models.{model_type_to_module_name(model_type)}.modeling_{model_type}")


def _end(child: int) -> tuple[int, int]:
    """Kill what is left of the child's group, then reap it: the group's number is ours until then."""
    _kill_group(child)
    return reap(child)


def _kill_group(child: int) -> None:
    """Kill the child's group, or the child alone where it has not made its group yet. It is not reaped here."""
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        # Unreaped, so the number is still the child's own, dead or alive.
        os.kill(child, signal.SIGKILL)


def send(connection: socket.socket, message: dict[str, Any]) -> None:
    """Send one message; nobody may be there to hear it."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.sendall(json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    main(sys.argv[1:])
