"""The documentation: its links lead somewhere, its commands are understood, and what it names is there."""

from __future__ import annotations

import importlib.util
import inspect
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import autofit
from autofit.cli import options as cli_options
from autofit.cli.main import _run
from autofit.cli.options import SUBCOMMANDS
from autofit.errors import UserError
from autofit.export import EXPORTERS
from autofit.report.html.picture import CHARTS

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors_of(path: Path) -> set[str]:
    """Anchors of a page's headings, as Markdown's usual hosts make them."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        path = page if not name else (page.parent / name).resolve()
        assert path.exists(), target
        if anchor:
            assert anchor in anchors_of(path), target


class UnderstoodError(Exception):
    """Raised in place of what a command would do, once its words were parsed."""


def commands_of(page: Path) -> list[str]:
    """The lines of a page's blocks that call autofit, without their comments and placeholders of paths."""
    lines = re.findall(r"^(?: {4}|\$ )(autofit [^\n]*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return [re.split(r"\s+#|\s{3,}", line)[0] for line in lines]


COMMANDS = [(named(page), line) for page in PAGES for line in commands_of(page)]


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=str)
def test_every_command_of_the_pages_is_understood(page: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parse = cli_options.Parser.parse_args

    def parse_only(self: Any, *words: Any) -> Any:
        parse(self, *words)
        raise UnderstoodError

    monkeypatch.setattr(cli_options.Parser, "parse_args", parse_only)
    with pytest.raises((UnderstoodError, UserError)) as raised:
        _run(shlex.split(line)[1:])
    # Words behind -- are looked at before the rest is parsed, and may be an ellipsis.
    assert raised.type is UnderstoodError or "..." in line, str(raised.value)


def test_the_pages_have_commands_and_name_every_subcommand() -> None:
    assert len(COMMANDS) >= 30
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for name in SUBCOMMANDS:
        assert f"autofit {name}" in text, name


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_python_in_the_pages_is_python(page: Path) -> None:
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        compile(block, named(page), "exec")


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_targets_modules_and_files_that_the_pages_name_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"[`\s]make ([a-z][a-z-]+)[`\s]", text):
        if f"\n{target}:" not in MAKEFILE:
            assert f"make {target}" not in re.findall(r"`([^`]+)`", text), target
    for module in re.findall(r"python -m (benchmarks[.\w]*)", text):
        assert importlib.util.find_spec(module) is not None, module
    for path in re.findall(r"`((?:autofit|benchmarks|tests|docs|examples)/[a-z_0-9./-]+)`", text):
        assert (ROOT / path).exists(), path


def test_every_export_format_and_every_chart_has_its_line() -> None:
    exports = (ROOT / "docs" / "exports.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([a-z-]+)` \|", exports, re.MULTILINE)) == set(EXPORTERS)
    report = (ROOT / "docs" / "report.md").read_text(encoding="utf-8")
    assert all(f"(`{name}`)" in report for name in CHARTS)


def test_everything_public_stands_in_the_librarys_page_and_says_what_it_raises() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    for name in autofit.__all__:
        assert f"autofit.{name}" in page, name
        thing = getattr(autofit, name)
        if inspect.isfunction(thing) and name != "guard":
            assert "Raises" in (thing.__doc__ or "") or "UserError" in (thing.__doc__ or ""), name


def test_every_message_of_the_troubleshooting_page_is_one_that_the_program_says() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert len(messages) > 10
    # Sentences are written in pieces, over several lines.
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "autofit").rglob("*.py"))
    joined = re.sub(r'"\s*\n\s*f?"', "", source)
    for message in messages:
        assert message in joined, message
