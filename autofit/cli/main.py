"""The ``autofit`` command: which subcommand, and what its errors become.

Exit codes: 0 done; 1 something broke; 2 the request cannot be carried out; 3 nothing fits;
130 interrupted, with everything measured kept.
"""

from __future__ import annotations

import importlib
import signal
import sys
from types import FrameType

from autofit.errors import AutofitError

SUBCOMMANDS = ("show", "explain", "export", "verify", "doctor", "plan", "estimate")
INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    """Run one command line; its exit code. Usage errors raise SystemExit(2), as argparse does."""
    words = sys.argv[1:] if arguments is None else arguments
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _run(words)
    except AutofitError as error:
        if "--debug" in words:
            raise
        print(f"autofit: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        if "--debug" in words:
            raise
        print("autofit: interrupted before anything was measured.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has stopped reading; that is theirs to decide.
        sys.stderr.close()
        return 0
    except Exception as error:
        if "--debug" in words:
            raise
        print(
            f"autofit: {type(error).__name__}: {error}\n"
            "This is a fault in autofit; run it again with --debug for the trace, and please report it.",
            file=sys.stderr,
        )
        return 1


def _run(words: list[str]) -> int:
    command = words[0] if words and words[0] in SUBCOMMANDS else "search"
    rest = words[1:] if command != "search" else words
    # Only the command that is run is imported: each has its own weight.
    code: int = importlib.import_module(f"autofit.cli.{command}").main(rest)
    return code


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
