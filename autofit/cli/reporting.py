"""Frame of every searching command: progress, the result, exports, the command that goes on."""

from __future__ import annotations

import argparse
import functools
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from autofit.errors import NothingFitsError, UserError

if TYPE_CHECKING:
    from autofit.api import SearchResult
    from autofit.report.live import Watcher
    from autofit.study.result import Run


def run_of(options: argparse.Namespace) -> Run | None:
    """The training run whose duration and cost are asked for; None without ``--samples``."""
    from autofit.study.result import Run

    if options.samples is None:
        return None
    return Run(samples=options.samples, epochs=options.epochs, price_per_hour=options.price)


def report(
    search: Callable[[Watcher], SearchResult],
    options: argparse.Namespace,
    command: list[str],
    *,
    of_program: bool = False,
) -> int:
    """Search, print the result and write the exports; the exit code. ``command`` is what was typed.

    ``of_program`` says that the search is of a program, which is not started for an export that it cannot have.
    """
    for option, is_given in (("--price", options.price is not None), ("--epochs", options.epochs != 1.0)):
        if is_given and options.samples is None:
            raise UserError(f"{option} needs --samples: how many samples the run has.")
    from autofit.export import check_exports, check_programs_exports, parse_exports, write_export

    exports = parse_exports(options.export, force=options.force)
    if of_program:
        check_programs_exports(exports)
    from autofit.cli.show import print_result
    from autofit.report.live import watch

    with watch(quiet=options.quiet) as observer:
        observer.check = functools.partial(check_exports, exports)
        try:
            result = search(observer)
        except NothingFitsError as error:
            failed = error
            result = None
    if result is None:
        from autofit.api import load

        print_result(load(observer.study, storage=options.storage), as_json=options.json)
        raise failed
    print_result(result, as_json=options.json)
    refused = []
    for name, path in exports if result.ranking.best is not None else ():
        try:
            say_written(path, write_export(result, name, path))
        except UserError as error:  # the others are written, and how to go on is said
            refused.append(f"--export {name}: {error}")
    if refused:
        print("\n".join(refused), file=sys.stderr)
    if result.interrupted:
        print(f"Interrupted; everything measured is kept. Go on with: {_resume(command)}", file=sys.stderr)
        return 130
    return UserError.exit_code if refused else 0


def say_written(path: Path, left_out: tuple[str, ...]) -> None:
    """On stderr: where an export lies, and what of the measured configuration its format cannot express."""
    from autofit.export.files import STDOUT

    if path != STDOUT:
        print(f"Wrote {path}", file=sys.stderr)
    if left_out:
        print(f"It is not the measured configuration. Left out of it: {'; '.join(left_out)}.", file=sys.stderr)


def _resume(command: list[str]) -> str:
    """The same command without what would begin anew; words after ``--`` are another program's own."""
    end = command.index("--") if "--" in command else len(command)
    ours = [_shown(word) for word in command[:end] if word not in ("--fresh", "--force")]
    exports = any(word.startswith("--export") for word in ours)
    return shlex.join([*ours, *(["--force"] if exports else []), *command[end:]])


def _shown(word: str) -> str:
    """A word of the command without the password of a storage's URL."""
    from autofit.study.storage import without_password

    option, equals, url = word.partition("=") if word.startswith("--") else ("", "", word)
    return f"{option}{equals}{without_password(url)}" if "://" in url else word
