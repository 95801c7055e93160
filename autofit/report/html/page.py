"""The page: one HTML file that loads nothing from the network, with its charts' library inside (0.9 MB)."""

from __future__ import annotations

import datetime
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autofit.device.kinds import kind_of
from autofit.errors import UserError
from autofit.report.code import usage_code, variables_code
from autofit.report.explanation import explained_sentences
from autofit.report.html import chart_data
from autofit.report.html.charts import NEEDS, figures_of, word
from autofit.report.own_program import changed_command, recommended_changes
from autofit.report.table import peak_in_words, plain_rows, table_notes
from autofit.report.text import count_trials, describe, heading_line
from autofit.study.result import Result
from autofit.study.trial import Trial
from autofit.units import format_bytes
from autofit.version import __version__

if TYPE_CHECKING:
    from autofit.driver.explanation import Explanation

LOG_LINES = 25
"""Of a failed trial's log, its end."""
_GLOBAL = "window.vegaEmbed = vegaEmbed;"
UTILIZATION = {
    "configuration": "configuration",
    "mfu": "MFU",
    "bandwidth": "memory bandwidth",
    "tflop": "TFLOP a step",
    "again": "computed again",
    "moved": "bytes moved",
}


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A configuration that is not ranked, its reason, and the end of its log."""

    config: str
    outcome: str
    reason: str
    log: str


def report_page(result: Result, explanation: Explanation | None) -> str:
    """The whole page. Raises UserError where the packages of the extra ``report`` are missing."""
    try:
        import jinja2
        import vl_convert

        figures = figures_of(result, explanation)
    except ImportError:
        raise UserError(NEEDS) from None
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    specs = {figure.name: _spec(figure.chart, figure.title) for figure in figures}
    return environment.get_template("page.html").render(
        figures=figures,
        # Inside a script element only "</" could end it.
        specs=json.dumps(specs).replace("</", "<\\/"),
        library=vl_convert.javascript_bundle(_GLOBAL).replace("</script", "<\\/script"),
        **_content(result, explanation),
    )


def _spec(chart: Any, title: str) -> dict[str, Any]:
    """A chart as wide as its place."""
    spec: dict[str, Any] = chart.properties(width="container").to_dict()
    # The page has its own colours, for light and for dark.
    spec.pop("config", None)
    return {**spec, "description": title, "autosize": {"type": "fit-x", "contains": "padding"}}


def _content(result: Result, explanation: Explanation | None) -> dict[str, Any]:
    """Everything of the page that is words."""
    recommendation, program = result.recommendation, result.situation.program
    changes = recommended_changes(result)
    titles, *rows = plain_rows(result, most_rows=None)
    best = result.ranking.best
    blocks = []
    if recommendation is not None:
        if program is None:
            blocks = [("Set before Python starts", variables_code(recommendation)), ("Python", usage_code(result))]
        else:
            command = changed_command(program, changes) if changes else None
            blocks = [("As a command", command or "")]
    return {
        "version": __version__,
        "date": datetime.date.today().isoformat(),
        "model": result.record.workload.model,
        "heading": heading_line(result),
        "stopped": result.stopped,
        "counts": count_trials(result.trials),
        "study": result.study,
        "recommendation": recommendation,
        "best": None if best is None else describe(best.trial.config),
        "best_figures": [] if best is None else _best_figures(titles, rows[best.rank - 1]),
        "changes": changes,
        "is_program": program is not None,
        "blocks": [(title, text) for title, text in blocks if text],
        "titles": titles,
        "rows": [(row, each is best) for row, each in zip(rows, result.ranking.ranked, strict=True)],
        "notes": table_notes(result) if rows else "",
        "explained": [] if explanation is None else explained_sentences(explanation),
        "utilization": [list(UTILIZATION.values())]
        + [[word(row[name]) for name in UTILIZATION] for row in chart_data.utilization(result)],
        "peak": peak_in_words(result),
        "failures": [_failure(trial) for trial in result.ranking.failed],
        "environment": _environment(result),
    }


def _best_figures(titles: list[str], row: list[str]) -> list[tuple[str, str]]:
    """The figures of the recommendation's row, each with its title."""
    wanted = ("time a step", "speed-up", "samples/s", "tokens/s", "MFU", "needs", "free", "measured")
    return [(title, row[titles.index(title)]) for title in wanted if title in titles]


def _failure(trial: Trial) -> Failure:
    return Failure(
        config=describe(trial.config),
        outcome=f"{trial.outcome.value}: {trial.outcome.meaning}",
        reason=trial.reason,
        log=_end_of(trial.log_path),
    )


def _end_of(path: str | None) -> str:
    """The last lines of a log; empty where it is not there any more."""
    if path is None:
        return ""
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-LOG_LINES:])


def _environment(result: Result) -> list[tuple[str, str]]:
    device, limits = result.situation.device, result.situation.limits
    facts = [
        ("device", f"{kind_of(device).label(device.index)}: {device.name}, {format_bytes(device.memory_bytes)}"),
        ("limit", f"{format_bytes(limits.memory_bytes)} less {limits.headroom:.0%} headroom"),
        *result.record.versions.items(),
    ]
    if device.compute_capability is not None:
        facts.insert(1, ("compute capability", ".".join(map(str, device.compute_capability))))
    return facts
