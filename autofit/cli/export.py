"""``autofit export``: files from a stored study."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from autofit.cli.options import Parser, add_study_options, whole_number
from autofit.cli.reporting import say_written

if TYPE_CHECKING:
    from autofit.study.result import Result


def main(words: list[str]) -> int:
    """Write the exports; the exit code."""
    from autofit.export import EXPORTERS, parse_exports, write_export
    from autofit.export.files import STDOUT

    parser = Parser(prog="autofit export", description="Write what a stored study recommends.")
    parser.add_argument(
        "exports",
        nargs="*",
        metavar="FORMAT=PATH",
        help=f"formats: {', '.join(EXPORTERS)}; without FORMAT= the path's suffix decides; FORMAT=- is standard output",
    )
    parser.add_argument("--study", metavar="NAME", help="name of the study (default: the newest)")
    parser.add_argument("--rank", type=whole_number, metavar="K", help="configuration of this rank")
    parser.add_argument(
        "--nodes",
        type=whole_number,
        default=1,
        metavar="M",
        help="for M hosts like the measured one, which share its accumulation steps",
    )
    parser.add_argument(
        "--into", metavar="FILE", help="an existing program to put the settings into; --force writes the changes"
    )
    parser.add_argument("--force", action="store_true", help="overwrite files that exist")
    add_study_options(parser)
    options = parser.parse_args(words)
    if not options.exports and options.into is None:
        parser.error("give FORMAT=PATH, or --into FILE")
    if options.nodes > 1 and options.into is not None:
        parser.error("--nodes goes with files that are written, not with --into")
    exports = parse_exports(options.exports, force=options.force, takes_stdout=True)
    if options.into is not None and any(path == STDOUT for _, path in exports):
        parser.error("--into shows its changes on standard output; give the export a file")
    from autofit.api import load

    result = dataclasses.replace(load(options.study, storage=options.storage), rank=options.rank, nodes=options.nodes)
    for name, path in exports:
        say_written(path, write_export(result, name, path))
    if options.into is not None:
        _put_into(result, Path(options.into), force=options.force)
    return 0


def _put_into(result: Result, path: Path, *, force: bool) -> None:
    """Show the changes of a program on stdout, and make them where that is asked for."""
    from autofit.export.files import write_file
    from autofit.export.into import edited
    from autofit.job.tasks import task_named

    change = edited(result, path)
    if change.other_model:
        task = task_named(result.record.workload.task)
        print(
            f"{path} loads {change.other_model}; what was measured is {task.auto_class}, so neither its memory nor its "
            "speed is what this program will have.",
            file=sys.stderr,
        )
    sys.stdout.write(change.diff or f"{path} has these settings already.\n")
    if change.left_out:
        print(f"Not in these calls, and to be set by you: {'; '.join(change.left_out)}.", file=sys.stderr)
    if change.diff and not force:
        print(f"Nothing was written: --force makes these changes in {path}.", file=sys.stderr)
    elif change.diff:
        write_file(path, change.content)
        print(f"Wrote {path}", file=sys.stderr)
