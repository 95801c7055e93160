"""Notebooks: the example is run by a real kernel; progress is one output that changes; results show themselves."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from autofit.driver.observer import Observer
from autofit.report import notebook
from autofit.report.notebook import NotebookView, Shown, default_observer, result_html
from tests.doubles import make_config, make_situation, make_trial
from tests.export.test_training_arguments import make_result
from tests.report.html.made_up import made_up_study

EXAMPLE = Path(__file__).parents[2] / "examples" / "notebook.ipynb"


def pretend(monkeypatch: pytest.MonkeyPatch, shell: Any) -> list[Shown]:
    """An IPython with this shell; what is displayed, or displayed in place of it, is collected."""
    shown: list[Shown] = []
    handle = types.SimpleNamespace(update=shown.append)

    def display(output: Shown, display_id: bool) -> Any:
        assert display_id and not shown, "one output, which changes"
        shown.append(output)
        return handle

    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", types.SimpleNamespace(display=display))
    return shown


def test_a_search_shows_itself_in_a_notebook_and_is_silent_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert type(default_observer()) is Observer
    pretend(monkeypatch, None)
    assert type(default_observer()) is Observer, "IPython is imported and runs no kernel"
    pretend(monkeypatch, object())
    assert type(default_observer()) is Observer, "IPython in a terminal"
    pretend(monkeypatch, types.SimpleNamespace(kernel=object()))
    assert type(default_observer()) is NotebookView


def test_progress_is_one_output_that_changes_with_every_event(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = pretend(monkeypatch, types.SimpleNamespace(kernel=object()))
    view = NotebookView()
    view.opened("one", "sqlite:///x.db", make_situation(), 12, [], 60.0)
    view.begun(0, make_config(), whole=False)
    running = shown[-1]._repr_mimebundle_()
    assert "running: 8 x 4" in running["text/plain"] and "12 configurations" in running["text/plain"]
    view.ended(make_trial(), [make_trial()])
    ended = shown[-1]._repr_mimebundle_()
    assert "best so far: 1.00 s a step" in ended["text/plain"] and "running" not in ended["text/plain"]
    assert ended["text/html"].startswith("<pre")


def test_a_result_shows_table_code_and_chart_and_goes_without_the_chart_where_it_cannot_be_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    html = result_html(made_up_study()[0])
    assert "TrainingArguments(" in html and "<svg" in html
    monkeypatch.setitem(sys.modules, "altair", None)
    plain = result_html(made_up_study()[0])
    assert "TrainingArguments(" in plain and "<svg" not in plain
    assert "<svg" not in result_html(make_result())


def test_what_has_no_html_of_its_own_is_registered_with_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    registered: dict[str, Any] = {}
    formatter = types.SimpleNamespace(
        for_type_by_name=lambda place, name, report: registered.__setitem__(f"{place}.{name}", report)
    )
    shell = types.SimpleNamespace(display_formatter=types.SimpleNamespace(formatters={"text/html": formatter}))
    pretend(monkeypatch, shell)
    notebook.register()
    for place in registered:
        module, _, name = place.rpartition(".")
        assert hasattr(__import__(module, fromlist=[name]), name), place
    _, explanation = made_up_study()
    assert "One knob changed gives" in registered["autofit.driver.explanation.Explanation"](explanation)


@pytest.mark.whole
def test_the_example_runs_in_a_kernel_and_every_cell_shows_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    example = nbformat.read(EXAMPLE, as_version=4)
    NotebookClient(
        example, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(EXAMPLE.parent)}}
    ).execute()
    # Importing transformers may say something before a cell's result.
    outputs = [cell.outputs for cell in example.cells if cell.cell_type == "code"]
    progress, result, arguments, table, chart, explanation, plan = outputs
    assert len(progress) == 1 and "best so far" in progress[0].data["text/plain"]
    assert "\x1b" not in progress[0].data["text/plain"]
    html = [cell[-1].data.get("text/html", "") for cell in (result, table, explanation, plan)]
    assert "TrainingArguments(" in html[0] and "<svg" in html[0]
    assert "<table" in html[1] and "One knob changed gives" in html[2] and "rtx-4090" in html[3].lower()
    assert "attn_implementation" in arguments[-1].data["text/plain"]
    assert "vega" in chart[-1].data["text/html"]
