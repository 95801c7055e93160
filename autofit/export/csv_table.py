"""``csv``: every trial of the study, one line each, for a spreadsheet."""

from __future__ import annotations

import csv
import io

from autofit.export.exported import Exported
from autofit.report.rows import rows_of
from autofit.study.result import Result


def serialize(result: Result) -> Exported:
    """The table; it has its header alone where nothing was tried."""
    rows = rows_of(result)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["trial"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return Exported(text=text.getvalue())
