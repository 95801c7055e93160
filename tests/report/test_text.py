"""The report: columns that mean something, evidence of each figure, and what is not confirmed."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest

from autofit.export.json_document import serialize
from autofit.job.lengths import SampleLengths
from autofit.report.document import document
from autofit.report.text import as_text, count_trials
from autofit.study.outcome import Outcome
from autofit.study.result import Run
from tests.doubles import make_trial
from tests.export.test_training_arguments import make_result


def test_images_have_no_tokens_per_second() -> None:
    images = make_result(make_trial(), task="image-classification", lengths=SampleLengths.fixed(1))
    assert "tokens" not in as_text(images).split("Use this")[0] and "samples" in as_text(images)
    assert "tokens" in as_text(make_result(make_trial()))


def test_what_is_not_confirmed_says_so_on_a_line_of_its_own_and_in_the_document() -> None:
    short, whole = make_result(make_trial(whole=False)), make_result(make_trial())
    assert any(line.startswith("NOT CONFIRMED") for line in as_text(short).splitlines())
    assert '"confirmed": false' in serialize(short).text
    assert "NOT CONFIRMED" not in as_text(whole) and '"confirmed": true' in serialize(whole).text


def test_a_speed_up_of_what_did_not_run_side_by_side_is_marked() -> None:
    reference = make_trial(0, seconds=2.0, number_of_round=0)
    beside = make_trial(1, seconds=1.0, number_of_round=0, attention="eager")
    assert " 2.00x" in as_text(make_result(reference, beside)) and "~2.00x" not in as_text(
        make_result(reference, beside)
    )
    alone = make_trial(1, seconds=1.0, number_of_round=5, attention="eager")
    assert "~2.00x" in as_text(make_result(reference, alone))


def test_a_reason_speaks_of_one_knob_only_where_only_that_knob_differs() -> None:
    best = make_trial(0, seconds=1.0, precision="bf16")
    differs_in_two = make_trial(1, seconds=2.0, attention="eager")
    assert "precision=bf16" not in as_text(make_result(best, differs_in_two)).split("Because")[1]
    differs_in_one = make_trial(2, seconds=2.0)
    assert "precision=bf16: fp32 is" in as_text(make_result(best, differs_in_one)).split("Because")[1]


def test_the_method_stands_in_the_heading_and_the_cost_names_its_currency() -> None:
    assert "LoRA of rank" in as_text(make_result(make_trial(), method="lora"))
    result = dataclasses.replace(make_result(make_trial()), run=Run(samples=3200, price_per_hour=2.5))
    assert "in the currency of --price, 2.5 per GPU-hour" in as_text(result)


def test_every_process_of_a_run_has_a_gpu_that_costs() -> None:
    result = make_result(make_trial())
    run = Run(samples=3200, price_per_hour=2.5)
    workload = dataclasses.replace(result.record.workload, processes=4)
    shared = dataclasses.replace(result, record=msgspec.structs.replace(result.record, workload=workload), run=run)
    alone = document(dataclasses.replace(result, run=run))["run"]["cost"]
    assert document(shared)["run"]["cost"] == pytest.approx(4 * alone)


def test_commands_name_the_storage_that_a_study_lies_in_where_it_is_not_the_usual_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = dataclasses.replace(make_result(make_trial()), storage="sqlite:///elsewhere.db")
    assert "--storage sqlite:///elsewhere.db" in as_text(result)
    monkeypatch.setenv("AUTOFIT_STORAGE", "sqlite:///elsewhere.db")
    assert "--storage" not in as_text(result)


def test_configurations_and_whole_runs_are_counted_apart() -> None:
    trials = [make_trial(0, whole=False), make_trial(1), make_trial(2), make_trial(3, outcome=Outcome.SKIPPED)]
    assert count_trials(trials) == "1 configuration tried, 2 whole runs to confirm"


def test_why_the_search_stopped_is_kept_with_the_study(tmp_path) -> None:
    from autofit.api import load
    from autofit.study.store import open_study
    from tests.doubles import make_situation
    from tests.study.test_store import add, make_record

    storage = f"sqlite:///{tmp_path / 'studies.db'}"
    study = open_study(storage, make_record(situation=make_situation()), "one", fresh=False)
    add(study, make_trial(0))
    study.keep_stopped("the 60 s of --budget are spent")
    assert "stopped because the 60 s of --budget are spent" in as_text(load("one", storage=storage))
