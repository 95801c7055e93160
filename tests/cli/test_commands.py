"""``list``, ``show``, ``export`` and ``doctor`` over a study that one small search made."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from autofit.cli.main import main
from autofit.study.outcome import Outcome

pytestmark = pytest.mark.usefixtures("short_measuring")


@pytest.fixture
def searched(tiny_model: Path, capfd: pytest.CaptureFixture[str]) -> str:
    """The name of a study of two trials."""
    words = [str(tiny_model), "--effective-batch", "4", "--seq-len", "32", "--max-trials", "2", "--study", "small"]
    assert main([*words, "--fix", "precision=fp32", "--quiet"]) == 0
    assert capfd.readouterr().err == ""
    return "small"


@pytest.mark.whole
def test_a_stored_study_is_shown_exported_examined_and_replayed(
    searched: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["show", searched]) == 0
    table = capfd.readouterr().out
    assert "Use this" in table and "TrainingArguments(" in table and "Because" in table

    monkeypatch.setenv("COLUMNS", "80")
    assert main(["show"]) == 0
    narrow = capfd.readouterr().out
    assert max(map(len, without_paths(narrow, tmp_path))) <= 80 and "samples" in narrow and "exact" in narrow

    page, picture = tmp_path / "report.html", tmp_path / "course.svg"
    assert main(["report", searched, "-o", str(page)]) == 0
    assert main(["plot", "-o", str(picture), "--chart", "course"]) == 0
    assert capfd.readouterr().err.splitlines() == [f"Wrote {page}", f"Wrote {picture}"]
    assert "Course of the search" in page.read_text() and picture.read_text().startswith("<svg")
    assert main(["report", "-o", str(page)]) == 2 and "overwrite it with --force" in capfd.readouterr().err
    assert main(["report", "-o", str(page), "--force"]) == 0

    assert main(["list"]) == 0
    listed = capfd.readouterr().out
    assert "small" in listed and "a step" in listed and max(map(len, listed.splitlines())) <= 80
    assert main(["list", "--json"]) == 0
    (only,) = json.loads(capfd.readouterr().out)
    assert only["study"] == "small" and only["effective_batch"] == 4 and only["best"]["step_seconds"] > 0

    assert main(["show", searched, "--json"]) == 0
    shown = json.loads(capfd.readouterr().out)
    path = tmp_path / "out.json"
    assert main(["export", f"json={path}", "--study", searched]) == 0
    assert json.loads(path.read_text()) == shown
    capfd.readouterr()

    script = tmp_path / "train.py"
    script.write_text("arguments = TrainingArguments('out')\n")
    assert main(["export", "--into", str(script), "--rank", "1"]) == 0
    said = capfd.readouterr()
    assert "+arguments = TrainingArguments('out', per_device_train_batch_size=" in said.out
    assert "--force makes these changes" in said.err and "per_device" not in script.read_text()
    assert main(["export", "--into", str(script), "--force"]) == 0
    assert "per_device_train_batch_size=" in script.read_text() and "Wrote" in capfd.readouterr().err
    assert main(["export", "--into", str(script), "--force"]) == 0
    assert "has these settings already" in capfd.readouterr().out
    assert main(["export", "--into", str(script), "--rank", "9"]) == 2
    assert "There is no rank 9" in capfd.readouterr().err

    assert main(["explain", searched]) == 0
    explained = capfd.readouterr().out
    assert "Recommended:" in explained and "Never in question" in explained and "10 % less memory" in explained
    assert max(map(len, without_paths(explained, tmp_path))) <= 80
    assert main(["explain", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["neighbours"]

    assert main(["doctor", "--replay", "0", "--study", searched]) == 0
    replayed = capfd.readouterr().out
    assert "then: ok" in replayed and "now: ok" in replayed and "autofit.worker.job" in replayed


def without_paths(printed: str, folder: Path) -> list[str]:
    """The lines that a path, which cannot be broken, does not make as long as it is."""
    return [line for line in printed.splitlines() if str(folder.parent) not in line]


@pytest.mark.whole
def test_a_search_is_compared_with_a_baseline_and_another_sampler_may_propose(
    tiny_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    baseline = tmp_path / "arguments.yaml"
    baseline.write_text("per_device_train_batch_size: 1\ngradient_accumulation_steps: 4\noptim: adamw_torch\n")
    words = [str(tiny_model), "--effective-batch", "4", "--seq-len", "32", "--max-trials", "3", "--sampler", "tpe"]
    words += ["--fix", "precision=fp32", "--fix", "compile=off", "--baseline", str(baseline), "--quiet"]
    assert main(words) == 0
    output = capfd.readouterr().out
    assert "your settings" in output and "defaults" not in output


def test_doctor_says_of_every_choice_whether_it_can_be_had(tiny_model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(tiny_model), "--device", "cpu"]) == 0
    output = capfd.readouterr().out
    # What no CPU can have is not offered for installation.
    assert "tf32 needs a GPU" in output and "flash_attention_2 needs a GPU" in output and "pip install" not in output
    assert "adamw_8bit" in output and "torch 2" in output


def test_the_environment_can_be_pasted_without_telling_where_things_lie(
    tiny_model: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tiny_model))
    assert main(["doctor", str(tiny_model), "--device", "cpu", "--report"]) == 0
    report = capfd.readouterr().out
    assert report.startswith("### Environment") and "OMP_NUM_THREADS=1" in report and "LD_LIBRARY_PATH is set" in report
    assert "* cpu: " in report and "torch 2" in report and "precision=tf32: tf32 needs a GPU" in report
    assert str(tiny_model.parent) not in report


def test_a_storage_without_studies_says_how_to_begin(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--storage", f"sqlite:///{tmp_path / 'none.db'}"]) == 0
    assert "No studies that this release can read" in capfd.readouterr().out
    assert not (tmp_path / "none.db").exists()


def test_the_command_to_go_on_with_shows_no_password() -> None:
    from autofit.cli.reporting import _resume

    url = "postgresql+psycopg://me:secret@db/studies"
    for words in (["--storage", url], [f"--storage={url}"]):
        said = _resume(["autofit", "m", "--effective-batch", "8", "--fresh", *words])
        assert "secret" not in said and "me:***@db/studies" in said and "--fresh" not in said


def test_an_export_that_is_refused_keeps_the_others_and_how_to_go_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from autofit.cli.reporting import report
    from tests.doubles import make_trial
    from tests.export.test_training_arguments import make_result

    result = dataclasses.replace(make_result(make_trial(), task="masked-lm"), interrupted=True)
    exports = [f"trl={tmp_path / 'a.yaml'}", f"json={tmp_path / 'b.json'}"]
    options = argparse.Namespace(
        price=None, epochs=1.0, samples=None, export=exports, force=True, quiet=True, json=False, storage=None
    )
    assert report(lambda observer: result, options, ["autofit", "m"]) == 130
    told = capfd.readouterr().err
    assert "--export trl: " in told and "Go on with: autofit m" in told and not (tmp_path / "a.yaml").exists()
    assert (tmp_path / "b.json").is_file()
    assert report(lambda observer: dataclasses.replace(result, interrupted=False), options, ["autofit", "m"]) == 2


@pytest.mark.parametrize(
    ("changes", "outcome", "gpus", "expected"),
    [
        ({}, Outcome.OOM, 4, 4),
        ({}, Outcome.SKIPPED, 2, 2),
        ({}, Outcome.ERROR, 4, None),
        ({}, Outcome.OOM, 1, None),
        ({}, Outcome.OOM, 3, None),  # 32 samples cannot be shared by three
        ({"processes": 1}, Outcome.OOM, 4, None),
        ({"device": "cuda:1"}, Outcome.OOM, 4, None),
        ({"baseline": "mine.json"}, Outcome.OOM, 4, None),
        ({"gpus": "all"}, Outcome.OOM, 4, None),
    ],
    ids=str,
)
def test_a_search_goes_on_with_all_gpus_only_where_memory_was_lacking_and_nobody_said_otherwise(
    changes: dict[str, Any], outcome: Outcome, gpus: int, expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autofit import api
    from autofit.cli.search import _processes_instead
    from autofit.device import kinds
    from tests.doubles import make_situation, make_trial
    from tests.export.test_training_arguments import make_result

    situation = make_situation(kind="cuda", capability=(9, 0))
    result = dataclasses.replace(make_result(make_trial(outcome=outcome)), situation=situation)
    monkeypatch.setattr(api, "load", lambda *args, **kwargs: result)
    monkeypatch.setattr(kinds, "find_gpus", lambda asked: [f"cuda:{number}" for number in range(gpus)])
    asked = {**dict.fromkeys(("processes", "gpus", "baseline", "storage")), "device": "auto", "effective_batch": 32}
    assert _processes_instead(argparse.Namespace(**{**asked, **changes}), "mine") == expected
