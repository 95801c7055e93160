"""The page: complete, asking nothing of the network, readable by everyone, and drawn by a real browser."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from autofit.errors import UserError
from autofit.report.html.charts import figures_of
from autofit.report.html.page import report_page
from autofit.report.html.picture import CHARTS, chart_picture
from autofit.study.outcome import Outcome
from autofit.study.trial import Role
from tests.doubles import make_trial
from tests.export.test_training_arguments import make_result
from tests.report.html.made_up import made_up_study

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def page() -> str:
    return report_page(*made_up_study())


class Outside(HTMLParser):
    """Collects what a page would load or lead to, and the text of its elements but scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self._silent = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._silent = tag in ("script", "style")
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action", "data")]

    def handle_endtag(self, tag: str) -> None:
        self._silent = False

    def handle_data(self, data: str) -> None:
        self.text += "" if self._silent else data


def test_a_page_loads_nothing_and_leads_nowhere_outside_itself(page: str) -> None:
    assert Outside(page).addresses == ["#table"]
    assert "default-src 'none'" in page and "connect-src" not in page
    assert "@import" not in page.partition("<script>")[0] and "url(" not in page.partition("<script>")[0]


def test_a_page_says_first_what_to_use_and_then_every_row_failure_and_version(page: str) -> None:
    result, _ = made_up_study()
    text = re.sub(r"\s+", " ", Outside(page).text)
    assert result.recommendation is not None
    for words in (
        *result.recommendation.reasons,
        "TrainingArguments( output_dir='output'",
        "oom: out of memory",
        "out of memory in backward",
        "MFU = ",
        *(figure.title for figure in figures_of(*made_up_study())),
    ):
        assert words in text
    assert text.index("Recommended:") < text.index("Ranked configurations") < text.index("Time against memory")
    assert page.count('<tr class="best">') == 1


def test_names_from_outside_are_text_and_never_markup() -> None:
    evil = make_result(make_trial(), model="x</script><img src=http://a.b onerror=alert(1)>")
    page = Outside(report_page(evil, None))
    assert "img" not in page.tags and "onerror=alert(1)" in page.text
    assert page.tags.count("script") == 2


def test_a_study_in_which_nothing_fits_has_a_page_with_the_reasons_and_the_logs_end(tmp_path: Path) -> None:
    log = tmp_path / "trial.log"
    log.write_text("\n".join(f"line {number}" for number in range(100)))
    failed = make_trial(outcome=Outcome.CRASHED, reason="its worker died")
    trials = (dataclasses.replace(failed, log_path=str(log)), make_trial(1, outcome=Outcome.OOM, attention="eager"))
    page = report_page(make_result(*trials), None)
    assert "Every configuration that was tried failed" in page and "its worker died" in page
    assert "line 99" in page and "line 60" not in page
    assert Outside(page).tags.count("table") == 1


def test_a_log_that_is_gone_leaves_the_reason() -> None:
    gone = dataclasses.replace(make_trial(outcome=Outcome.ERROR, reason="no such key"), log_path="/nowhere/t.log")
    assert "no such key" in report_page(make_result(gone), None)


def test_every_figure_has_a_chart_a_caption_and_its_data_as_a_table() -> None:
    figures = figures_of(*made_up_study())
    assert {figure.name for figure in figures} == set(CHARTS)
    for figure in figures:
        assert figure.chart.to_dict()["$schema"] and figure.caption.endswith(".")
        titles, *rows = figure.table
        assert len(rows) == len(figure.rows) and all(len(row) == len(titles) for row in rows)
        assert any(word != "-" for row in rows for word in row)


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<svg"), (".pdf", b"%PDF")])
def test_a_chart_is_a_picture_without_a_browser(suffix: str, start: bytes) -> None:
    assert chart_picture(*made_up_study(), "trade-off", suffix).startswith(start)


def test_a_chart_without_data_is_refused_with_those_that_have_some() -> None:
    with pytest.raises(UserError, match="no data for the chart 'micro-batch': it has data for trade-off, step"):
        chart_picture(make_result(make_trial()), None, "micro-batch", ".svg")
    with pytest.raises(UserError, match="nothing was measured"):
        chart_picture(make_result(make_trial(outcome=Outcome.OOM)), None, "course", ".svg")


@pytest.mark.parametrize("missing", ["altair", "vl_convert", "jinja2"])
def test_without_the_extra_the_page_says_what_to_install(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError, match=r"pip install altair vl-convert-python jinja2"):
        report_page(*made_up_study())


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
@pytest.mark.parametrize("width", [1200, 390])
def test_a_browser_draws_every_chart_without_a_complaint_and_nothing_sticks_out(
    page: str, width: int, tmp_path: Path
) -> None:
    assert BROWSER is not None
    path = tmp_path / "report.html"
    # Headless Chromium is at least 500 pixels wide: a frame is as narrow as a telephone.
    inside = tmp_path / "inside.html"
    inside.write_text(page, encoding="utf-8")
    path.write_text(
        f'<iframe id="page" src="inside.html" style="width:{width}px;height:900px;border:0"></iframe>'
        '<script>addEventListener("load", () => setTimeout(() => {'
        'const page = document.getElementById("page").contentDocument;'
        'const names = [...page.querySelectorAll(".chart")].map((chart) => chart.id + ":" '
        '+ chart.querySelectorAll("svg path, svg rect").length);'
        "const wide = page.documentElement.scrollWidth;"
        'document.title = names.join(" ") + " width:" + wide;}, 3000));</script>',
        encoding="utf-8",
    )
    ended = subprocess.run(
        [
            BROWSER,
            *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
            *("--disable-component-update", "--disable-sync", "--allow-file-access-from-files"),
            *(f"--user-data-dir={tmp_path / 'browser'}", "--window-size=1400,900", "--virtual-time-budget=20000"),
            *("--enable-logging=stderr", "--dump-dom", f"file://{path}"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    complaints = [line for line in ended.stderr.splitlines() if "CONSOLE" in line]
    assert complaints == []
    title = re.search(r"<title>(.*?)</title>", ended.stdout)
    assert title is not None, ended.stderr[-2000:]
    counts = dict(word.rsplit(":", 1) for word in title.group(1).split())
    assert int(counts.pop("width")) <= width
    assert set(counts) == {f"chart-{name}" for name in CHARTS}
    assert all(int(count) > 5 for count in counts.values())


def test_a_page_says_why_it_recommends_nothing() -> None:
    outside = make_trial(role=Role.OUTSIDE)
    assert "Only what you train with now was measured" in report_page(make_result(outside), None)
    assert "Nothing was tried yet" in report_page(make_result(), None)


def test_the_pages_table_has_the_star_and_no_word_on_columns_that_it_lacks() -> None:
    page = report_page(make_result(make_trial(0, seconds=1.0, whole=False), make_trial(1, attention="eager")), None)
    assert "<td>*2</td>" in page and "*: recommended" in page
    assert "predicted: before the trial ran" not in report_page(*made_up_study())
