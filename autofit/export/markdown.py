"""``markdown``: the ranked table, the recommendation and its reasons, for a pull request or a page of notes."""

from __future__ import annotations

from autofit.export.exported import Exported, header, recommended
from autofit.report.code import method_lines, model_call, training_arguments_call
from autofit.report.own_program import recommended_changes
from autofit.report.table import evidence_of, figure_titles, figures_of, numerics_of_row, telling_knobs
from autofit.study.result import Result

MOST_ROWS = 10


def serialize(result: Result) -> Exported:
    """The page. Raises UserError where nothing was measured."""
    _, recommendation = recommended(result)
    lines = [*header(result), "", *_table(result), "", *_settings(result), ""]
    lines += [f"* {reason}" for reason in recommendation.reasons]
    return Exported(text="\n".join(lines) + "\n")


def _table(result: Result) -> list[str]:
    knobs = telling_knobs(result)
    rows = [["#", "micro x acc", *(row.title for row in knobs), *figure_titles(result), "numerics", "measured"]]
    for each in result.ranking.ranked[:MOST_ROWS]:
        mark = "**" if each is result.ranking.best else ""
        settings = [str(each.trial.config[row.name]) for row in knobs]
        cells = [str(each.rank), each.trial.config.split, *settings, *figures_of(each, result)]
        rows.append([f"{mark}{cell}{mark}" for cell in [*cells, numerics_of_row(each), evidence_of(each)]])
    rows.insert(1, ["---"] * len(rows[0]))
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]


def _settings(result: Result) -> list[str]:
    """The code to use; of a program of one's own, the lines to change in it."""
    recommendation = result.recommendation
    assert recommendation is not None, "the caller has looked"
    if result.situation.program is not None:
        return ["```", *(str(change) for change in recommended_changes(result)), "```"]
    workload = result.record.workload
    code = [
        training_arguments_call(recommendation.training_arguments, output_dir="output"),
        model_call(workload, recommendation, trust_remote_code=result.record.trust_remote_code),
        *method_lines(recommendation),
    ]
    return ["```python", *code, "```"]
