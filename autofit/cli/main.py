"""The ``autofit`` command: which subcommand, and what its errors become.

Exit codes: 0 done; 1 something broke; 2 the request cannot be carried out; 3 nothing fits;
130 interrupted, with everything measured kept.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import os
import signal
import sys
from types import FrameType

from autofit.cli.completion import is_asked, words_to_complete
from autofit.cli.options import SUBCOMMANDS
from autofit.errors import AutofitError, printable

INTERRUPTED = 130
_OF_THE_DISK = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.ENOENT, errno.ENOTDIR)


def main(arguments: list[str] | None = None) -> int:
    """Run one command line; its exit code. Usage errors raise SystemExit(2), as argparse does."""
    words = sys.argv[1:] if arguments is None else arguments
    if is_asked():
        words = words_to_complete(SUBCOMMANDS)
    # What comes after -- are a program's own words.
    is_debugging = "--debug" in words[: words.index("--") if "--" in words else len(words)]
    signal.signal(signal.SIGTERM, _interrupt)
    _prepare_streams()
    try:
        code = _run(words)
        sys.stdout.flush()
    except AutofitError as error:
        if is_debugging:
            raise
        _tell(f"autofit: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        if is_debugging:
            raise
        _tell("autofit: interrupted; what had been measured by then is kept.")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has stopped reading; that is theirs to decide.
        _drop_stdout()
        return 0
    except OSError as error:
        if is_debugging:
            raise
        _drop_stdout()
        place = f" '{error.filename}'" if error.filename else ""
        remedy = (
            ": free space, or choose another place with AUTOFIT_HOME or --storage"
            if error.errno in _OF_THE_DISK
            else ""
        )
        _tell(f"autofit: {error.strerror or error}{place}{remedy}.")
        return 1
    except Exception as error:
        if is_debugging:
            raise
        sentence = _of_the_storage(error)
        _tell(
            sentence
            or f"autofit: {type(error).__name__}: {error}\n"
            "This is a fault in autofit; run it again with --debug for the trace, and please report it."
        )
        return 1
    return code


def _prepare_streams() -> None:
    """Letters that a stream cannot write become question marks; a closed stream takes everything."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123 - for good
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _drop_stdout() -> None:
    """Drop the rest of stdout's buffer, which cannot be written: Python would try again at its end, and complain."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _tell(text: str) -> None:
    with contextlib.suppress(OSError):
        print(printable(text), file=sys.stderr)


def _of_the_storage(error: Exception) -> str | None:
    """A sentence where the study's database failed: a full disk, a file that was removed or is read-only."""
    cause: BaseException | None = error
    while cause is not None:
        if type(cause).__module__.startswith(("sqlalchemy", "sqlite3")):
            reason = str(getattr(cause, "orig", cause)).splitlines()[0]
            return (
                f"autofit: the study could not be stored ({reason}): free space, or choose another place with "
                "AUTOFIT_HOME or --storage. What was stored before is kept."
            )
        cause = cause.__cause__ or cause.__context__
    return None


def _run(words: list[str]) -> int:
    command = words[0] if words and words[0] in SUBCOMMANDS else "search"
    rest = words[1:] if command != "search" else words
    # Only the command that is run is imported: each has its own weight.
    code: int = importlib.import_module(f"autofit.cli.{command}").main(rest)
    return code


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
