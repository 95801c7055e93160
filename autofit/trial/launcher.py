"""Starting and ending worker processes, from the parent's side: through the trial server, or afresh.

Both launchers start a worker as the leader of its own session and process group, tell its exit code, and
kill the whole group afterwards, good or bad. Neither reads the worker's output: it goes to the log file.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from autofit.device.host import own_peak_resident, reap
from autofit.knobs.parallelism import OFFLOADING
from autofit.trial.protocol import JobFiles

SERVER_START_SECONDS = 180.0
DECIDED_BY_KNOBS = (
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_HIP_ALLOC_CONF",
    "TORCHINDUCTOR_MAX_AUTOTUNE",
    *OFFLOADING,
)
"""Variables that a trial does not take over from the user: the default would not be the default with them, and with
max-autotune compiling in bf16 raises."""


class LaunchError(Exception):
    """A worker could not be started; the text is a sentence's end."""


class Launcher(Protocol):
    """One worker at a time."""

    peak_resident: int | None
    """Bytes that the worker that ended last had in memory at most; None where the system does not say."""

    def start(self, job_path: Path) -> int:
        """Start a worker for the job; its process id. Raises LaunchError."""

    def wait(self, seconds: float) -> int | None:
        """The worker's exit code (negative for a signal), or None if it still runs after ``seconds``."""

    def kill(self) -> None:
        """Kill the worker and everything it started. ``wait`` then tells the exit code."""

    def close(self) -> None:
        """End the launcher and whatever still runs."""


def worker_environment(visible_device: str | None, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of workers: this process's, with one device visible and no network look-ups.

    With several cards visible a plain script becomes DataParallel and multiplies the batch by their
    number, so exactly one is. The NVML-based check lets torch answer "is there a GPU" without opening it.
    """
    environment = {
        **os.environ,
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
        # Cards are numbered as nvidia-smi numbers them; CUDA's own order puts the fastest first.
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        **(extra or {}),
    }
    for name in DECIDED_BY_KNOBS:
        environment.pop(name, None)
    if visible_device is not None:
        environment["CUDA_VISIBLE_DEVICES"] = visible_device
        if "HIP_VISIBLE_DEVICES" in environment:  # goes before CUDA's on ROCm
            environment["HIP_VISIBLE_DEVICES"] = visible_device
    return environment


def start_quietly(
    command: Sequence[str], log: BinaryIO, environment: dict[str, str], **others: Any
) -> subprocess.Popen[bytes]:
    """A process that leads its own session, reads nothing and writes to its log. Raises OSError."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=environment,
        start_new_session=True,
        **others,
    )


class FreshInterpreters:
    """A new Python for every worker: slow to start, works wherever Python does."""

    def __init__(self, environment: dict[str, str], command: tuple[str, ...] = ()) -> None:
        self._environment = environment
        self._command = command or (sys.executable, "-P", "-m", "autofit.worker.job")
        self.peak_resident: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, job_path: Path) -> int:
        with JobFiles(job_path).log.open("wb") as log:
            try:
                self._process = self._popen(job_path, log)
            except OSError as error:
                raise LaunchError(str(error)) from None
        return self._process.pid

    def _popen(self, job_path: Path, log: BinaryIO) -> subprocess.Popen[bytes]:
        return start_quietly([*self._command, str(job_path)], log, self._environment)

    def wait(self, seconds: float) -> int | None:
        assert self._process is not None, "nothing was started"
        if os.name == "posix" and hasattr(os, "waitid"):
            exited = self._exited_within(seconds)
            if not exited:
                return None
            # Kill the rest of the group while its number is still ours, then reap its leader.
            self.kill()
            if self._process.returncode is None:
                self._process.returncode, peak_resident = reap(self._process.pid)
                # Before it ran a program of its own it was a copy of this process, which counts, too.
                self.peak_resident = peak_resident if peak_resident > own_peak_resident() else None
            return self._process.returncode
        try:
            code = self._process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return None
        self.kill()
        return code

    def kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self.kill()
            self._process.wait()

    def _exited_within(self, seconds: float) -> bool:
        assert self._process is not None
        deadline = time.monotonic() + seconds
        pause = 0.001
        while True:
            if self._process.returncode is not None:
                return True
            if os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(pause, left))
            pause = min(pause * 2, 0.02)


class ForkServer:
    """The parent's end of ``server.py``'s messages, whichever process speaks them.

    ``await_ready`` raises LaunchError where forking workers cannot be had.
    """

    def __init__(self, process: subprocess.Popen[bytes], connection: socket.socket, log: Path) -> None:
        self._process = process
        self._connection = connection
        self._buffer = b""
        self._running: int | None = None
        self.peak_resident: int | None = None
        self._log = log
        self._ready = False

    def await_ready(self, seconds: float = SERVER_START_SECONDS) -> None:
        """Wait for the server's imports and its self-check. Raises LaunchError with the reason."""
        if self._ready:
            return
        message = self._message(seconds)
        if message is None or "ready" not in message:
            problem = message["problem"] if message and "problem" in message else self._last_words()
            self.close()
            raise LaunchError(problem)
        self._ready = True

    def start(self, job_path: Path) -> int:
        self.await_ready()
        self._send({"job": str(job_path)})
        message = self._message(SERVER_START_SECONDS)
        while message is not None and "ended" in message:  # of a worker that outlived its killing
            message = self._message(SERVER_START_SECONDS)
        if message is None or "started" not in message:
            raise LaunchError(f"the trial server stopped answering: {self._last_words()}")
        self._running = int(message["started"])
        return self._running

    def wait(self, seconds: float) -> int | None:
        assert self._running is not None, "nothing was started"
        message = self._message(seconds)
        if message is not None and message.get("ended") == self._running:
            self._running = None
            self.peak_resident = message["peak_resident"]
            return int(message["exit_code"])
        if self._process.poll() is not None:
            raise LaunchError("the trial server died")
        return None

    def kill(self) -> None:
        if self._running is not None:
            self._send({"kill": self._running})

    def close(self) -> None:
        self._connection.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _send(self, request: dict[str, Any]) -> None:
        try:
            self._connection.sendall(json.dumps(request).encode() + b"\n")
        except OSError:
            raise LaunchError("the trial server died") from None

    def _message(self, seconds: float) -> dict[str, Any] | None:
        deadline = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._connection], [], [], left)[0]:
                return None
            try:
                received = self._connection.recv(65536)
            except ConnectionResetError:  # killed with our request unread
                return None
            if not received:
                return None
            self._buffer += received
        line, self._buffer = self._buffer.split(b"\n", 1)
        message: dict[str, Any] = json.loads(line)
        return message

    def _last_words(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else "the trial server did not answer"


class TrialServer(ForkServer):
    """A process of ours that imports torch and transformers once. Raises LaunchError where forking is not safe."""

    def __init__(self, environment: dict[str, str], device: str, log: Path) -> None:
        refuse_unsafe_forks()
        ours, theirs = socket.socketpair()
        with theirs, log.open("wb") as errors:
            command = [sys.executable, "-P", "-m", "autofit.worker.server", str(theirs.fileno()), device]
            process = start_quietly(command, errors, environment, pass_fds=(theirs.fileno(),))
        super().__init__(process, ours, log)


def refuse_unsafe_forks() -> None:
    """Raises LaunchError on systems where a process with threads cannot be forked safely."""
    if sys.platform != "linux":
        raise LaunchError(f"forking workers is not safe on {sys.platform}")


class Starts(Protocol):
    """Source of a job's workers. ``start_seconds`` is what a server may take until it can fork."""

    start_seconds: float

    def server(self, log: Path) -> ForkServer:
        """A process that forks workers. Raises LaunchError where it cannot be had."""

    def fresh(self, environment: dict[str, str]) -> Launcher:
        """Workers that are started anew, with ``environment`` added to theirs."""

    def has(self, environment: dict[str, str]) -> bool:
        """True where forked workers have these variables already."""


class OwnWorkers:
    """Workers of ours: the trial server, fresh interpreters. ``torch_device`` is the one they see."""

    start_seconds = SERVER_START_SECONDS

    def __init__(self, environment: dict[str, str], torch_device: str) -> None:
        self._environment = environment
        self._torch_device = torch_device

    def server(self, log: Path) -> ForkServer:
        return TrialServer(self._environment, self._torch_device, log)

    def fresh(self, environment: dict[str, str]) -> Launcher:
        return FreshInterpreters({**self._environment, **environment})

    def has(self, environment: dict[str, str]) -> bool:
        return all(self._environment.get(name) == value for name, value in environment.items())
