"""The comparisons of ``autofit verify`` as a table and sentences."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from autofit.trial.equivalence import Comparison


def equivalence_report(comparisons: Sequence[Comparison]) -> RenderableType:
    """A row per comparison, and under it what is not the same training."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("configuration", "loss", "apart", "gradient norm", "apart", "verdict"):
        table.add_column(title, justify="left" if title in ("configuration", "verdict") else "right", overflow="fold")
    for each in comparisons:
        table.add_row(
            each.label,
            _number(each.loss),
            _share(each.loss_difference),
            _number(each.gradient_norm),
            _share(each.gradient_difference),
            "same" if each.same else "NOT the same",
        )
    lines = [Text(f"{each.label}: {each.problem}", style="bold") for each in comparisons if not each.same]
    tolerances = {(each.against, each.loss_tolerance, each.gradient_tolerance): None for each in comparisons}
    lines += [
        Text(f"Allowed against {against}: {loss:.0e} of the loss, {gradient:.0e} of the gradient norm.", style="dim")
        for against, loss, gradient in tolerances
    ]
    return Group(table, *lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"
