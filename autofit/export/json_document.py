"""``json``: the document that ``--json`` prints."""

from __future__ import annotations

import json

from autofit.export.exported import Exported
from autofit.report.document import document
from autofit.study.result import Result


def serialize(result: Result) -> Exported:
    """Indented JSON with a newline at the end."""
    text = json.dumps(document(result), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return Exported(text=text)
