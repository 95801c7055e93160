"""``autofit export``: files from a stored study."""

from __future__ import annotations

from autofit.cli.options import Parser, add_study_options
from autofit.cli.reporting import say_written


def main(words: list[str]) -> int:
    """Write the exports; the exit code."""
    from autofit.export import EXPORTERS, parse_export, write_export

    parser = Parser(prog="autofit export", description="Write what a stored study recommends.")
    parser.add_argument(
        "exports",
        nargs="+",
        metavar="FORMAT=PATH",
        help=f"formats: {', '.join(EXPORTERS)}; without FORMAT= the path's suffix decides",
    )
    parser.add_argument("--study", metavar="NAME", help="name of the study (default: the newest)")
    parser.add_argument("--force", action="store_true", help="overwrite files that exist")
    add_study_options(parser)
    options = parser.parse_args(words)
    exports = [parse_export(text, force=options.force) for text in options.exports]
    from autofit.api import load

    result = load(options.study, storage=options.storage)
    for name, path in exports:
        say_written(path, write_export(result, name, path))
    return 0
