"""The members of a crew on this host: one process for each GPU, started and ended with the search."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autofit.study.storage import STORAGE_VARIABLE

LEAVE_AFTER = "60s"
"""Without anybody who leads: whoever started them was killed."""
END_SECONDS = 20.0


@dataclass(frozen=True, kw_only=True)
class Member:
    """One that was started: its device's label, its process, and where it writes."""

    device: str
    process: subprocess.Popen[bytes]
    log: Path


class LocalMembers:
    """``autofit worker`` once for each of ``devices`` (``cuda:0``). ``storage`` is handed over out of sight."""

    def __init__(self, devices: Sequence[str], study: str, storage: str, folder: Path, *, trial_seconds: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._members = [self._start(device, study, storage, folder, trial_seconds) for device in devices]
        self._told: set[str] = set()

    @staticmethod
    def _start(device: str, study: str, storage: str, folder: Path, trial_seconds: float) -> Member:
        log = folder / f"worker-{device.replace(':', '-')}.log"
        options = ("--study", study, "--device", device, "--wait", LEAVE_AFTER, "--trial-timeout", f"{trial_seconds}s")
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "autofit", "worker", *options],
                env={**os.environ, STORAGE_VARIABLE: storage},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return Member(device=device, process=process, log=log)

    def news(self) -> list[str]:
        """A sentence for each that ended since this was asked last, with the last thing that it said."""
        found = []
        for member in self._members:
            if member.device not in self._told and member.process.poll() is not None:
                self._told.add(member.device)
                found.append(f"{member.device} takes no part any more: {_last_line(member.log)}")
        return found

    @property
    def have_all_ended(self) -> bool:
        """True where some were started and none is left."""
        return bool(self._members) and all(member.process.poll() is not None for member in self._members)

    def close(self) -> None:
        """End those that run, and whatever they run."""
        for member in self._members:
            if member.process.poll() is None:
                member.process.send_signal(signal.SIGTERM)
        for member in self._members:
            try:
                member.process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                member.process.kill()
                member.process.wait()


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"it said nothing ({log})"
