"""A picture for the README: the last study's ranked table and what it recommends. ``python -m benchmarks.picture``.

After ``make demo`` that is the demo's search. Written to docs/search.svg, which asks nothing of the network.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

from rich.console import Console

import autofit
from autofit.report.table import ranked_table
from autofit.report.text import as_text

PICTURE = Path(__file__).parents[1] / "docs" / "search.svg"
WIDTH, MOST_ROWS = 118, 6


def main() -> int:
    """Draw it."""
    result = autofit.load()
    console = Console(file=io.StringIO(), width=WIDTH, record=True, highlight=False, markup=False, force_terminal=True)
    workload = result.record.workload
    console.print(f"$ autofit {workload.model} --effective-batch {workload.effective_batch} --data ...")
    console.print(ranked_table(result, width=WIDTH, most_rows=MOST_ROWS))
    recommended = as_text(result).partition("Use this")[2].partition("Because")[0]
    console.print("Use this\n" + "\n".join(line.rstrip() for line in recommended.strip("\n").splitlines()))
    # One name for what Rich would number by the text, so that a new picture differs where the table does.
    svg = console.export_svg(title="autofit", unique_id="autofit")
    PICTURE.write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL), encoding="utf-8")
    print(f"Wrote {PICTURE}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
