"""A PostgreSQL server of the tests' own: in a scratch folder, on loopback, by a user without rights."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

PLACES = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin", "/opt/homebrew/opt/postgresql*/bin")


def programs() -> Path | None:
    """The folder of the server's programs, of the newest release; None where there is none."""
    found = [path for pattern in PLACES for path in Path("/").glob(pattern.lstrip("/")) if (path / "initdb").exists()]
    in_path = shutil.which("initdb")
    return max(found, default=Path(in_path).resolve().parent if in_path else None)


class Server:
    """One server; ``url`` is for ``--storage``."""

    def __init__(self, folder: Path, port: int) -> None:
        self._folder, self._port = folder, port
        self.url = f"postgresql+psycopg://autofit@127.0.0.1:{port}/postgres"

    def make(self) -> None:
        self._run("initdb", "-D", self._data, "-A", "trust", "-U", "autofit", "--no-sync", "--no-instructions")

    def start(self) -> None:
        options = f"-p {self._port} -h 127.0.0.1 -k {self._folder} -F"
        self._run("pg_ctl", "-D", self._data, "-w", "-t", "30", "-l", str(self._folder / "log"), "-o", options, "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", self._data, "-m", "immediate", "-w", "stop")

    def restart(self) -> None:
        """As after a power cut: connections are gone, what was committed is there."""
        self.stop()
        self.start()

    @property
    def _data(self) -> str:
        return str(self._folder / "data")

    def _run(self, name: str, *words: str) -> None:
        folder = programs()
        assert folder is not None, "there is no PostgreSQL here"
        command = [str(folder / name), *words]
        if os.geteuid() == 0:
            # PostgreSQL refuses to run as root.
            owner = str(self._folder.stat().st_uid)
            command = ["setpriv", f"--reuid={owner}", f"--regid={owner}", "--clear-groups", *command]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=60, cwd=self._folder)


@contextlib.contextmanager
def server() -> Iterator[Server]:
    """A running server, gone afterwards with all that it holds."""
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        if os.geteuid() == 0:
            unprivileged = pwd.getpwnam("nobody").pw_uid
            os.chown(folder, unprivileged, unprivileged)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        made = Server(folder, port)
        made.make()
        made.start()
        try:
            yield made
        finally:
            made.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
