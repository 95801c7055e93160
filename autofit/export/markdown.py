"""``markdown``: the ranked table, the recommendation and its reasons, for a pull request or a page of notes."""

from __future__ import annotations

from autofit.export.exported import Exported, header, recommended
from autofit.report.code import usage_code
from autofit.report.own_program import recommended_changes
from autofit.report.table import plain_rows
from autofit.study.result import Result

MOST_ROWS = 10


def serialize(result: Result) -> Exported:
    """The page. Raises UserError where nothing was measured."""
    _, recommendation = recommended(result)
    lines = [*header(result), "", *_table(result), "", *_settings(result), ""]
    lines += [f"* {reason}" for reason in recommendation.reasons]
    return Exported(text="\n".join(lines) + "\n")


def _table(result: Result) -> list[str]:
    titles, *rows = plain_rows(result, most_rows=MOST_ROWS)
    for row, each in zip(rows, result.ranking.ranked, strict=False):
        if each is result.ranking.best:
            row[:] = [f"**{cell.lstrip('*')}**" for cell in row]
    lines = [titles, ["---"] * len(titles), *rows]
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in lines]


def _settings(result: Result) -> list[str]:
    """The code to use; of a program of one's own, the lines to change in it."""
    if result.situation.program is not None:
        return ["```", *(str(change) for change in recommended_changes(result)), "```"]
    return ["```python", usage_code(result), "```"]
