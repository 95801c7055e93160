import contextlib
import dataclasses
import os
import re
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from autofit.device.versions import set_variables
from autofit.errors import UserError
from autofit.job.models import ModelSource
from autofit.job.record import StudyRecord
from autofit.knobs.space import SpaceRequest
from autofit.knobs.train_config import TrainConfig
from autofit.study.outcome import Outcome
from autofit.study.ranking import rank
from autofit.study.storage import without_password
from autofit.study.store import MOST_ORPHANS, Study, _distributions, load_study, open_study
from autofit.study.trial import Role, Trial
from tests.doubles import make_config, make_situation, make_trial


def make_record(**changes: object) -> StudyRecord:
    situation = make_situation()
    record = StudyRecord(
        model=ModelSource(name="some/llama", origin="built-in table", config={"model_type": "llama"}),
        workload=situation.workload,
        device=situation.device,
        versions={"torch": "2.13.0"},
        limits=situation.limits,
    )
    return msgspec.structs.replace(record, **changes)


@pytest.fixture
def storage(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'studies.db'}"


def add(study: Study, trial: Trial) -> None:
    number = study.begin(trial.config)
    study.finish(dataclasses.replace(trial, number=number))


def test_what_was_measured_comes_back_as_it_was(storage: str) -> None:
    study = open_study(storage, make_record(), None, fresh=False)
    trials = [make_trial(0, jitter=0.1), make_trial(1, outcome=Outcome.OOM, reason="no room", precision="bf16")]
    for trial in trials:
        add(study, trial)
    assert load_study(storage, study.name).trials() == tuple(trials)


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_outcome_can_be_stored(storage: str, outcome: Outcome) -> None:
    study = open_study(storage, make_record(), None, fresh=False)
    add(study, make_trial(0, outcome=outcome))
    assert [trial.outcome for trial in study.trials()] == [outcome]


def test_the_same_record_opens_the_same_study(storage: str) -> None:
    add(open_study(storage, make_record(), None, fresh=False), make_trial(0))
    assert len(open_study(storage, make_record(), None, fresh=False).trials()) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"versions": {"torch": "2.14.0"}},
        {"workload": make_situation(effective_batch=16).workload},
        {"device": make_situation(kind="cuda").device},
        {"limits": make_situation(limit_bytes=2**30).limits},
        {"seed": 1},
    ],
    ids=["versions", "workload", "device", "limits", "seed"],
)
def test_a_changed_device_version_or_workload_is_another_study(storage: str, change: dict) -> None:
    first = open_study(storage, make_record(), None, fresh=False)
    other = open_study(storage, make_record(**change), None, fresh=False)
    assert first.name != other.name
    with pytest.raises(UserError, match="choose another --study"):
        open_study(storage, make_record(**change), first.name, fresh=False)


def test_fresh_forgets_what_was_measured(storage: str) -> None:
    add(open_study(storage, make_record(), "mine", fresh=False), make_trial(0))
    assert open_study(storage, make_record(), "mine", fresh=True).trials() == ()


def test_spent_time_is_added_up(storage: str) -> None:
    study = open_study(storage, make_record(), None, fresh=False)
    study.spend(3.0)
    study.spend(4.0)
    assert load_study(storage, study.name).spent_seconds == 7.0


def test_a_trial_whose_process_died_is_given_up_and_can_be_run_again(storage: str) -> None:
    study = open_study(storage, make_record(), None, fresh=False)
    script = (
        "import sys, os, signal\n"
        "from autofit.study.store import load_study\n"
        "from tests.doubles import make_config\n"
        "load_study(sys.argv[1], None).begin(make_config())\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).parents[2]
    died = subprocess.run([sys.executable, "-c", script, storage], cwd=root, env={**os.environ}, check=False)
    assert died.returncode == -9
    again = open_study(storage, make_record(), None, fresh=False)
    assert again.trials() == ()
    add(again, make_trial(0))
    assert [trial.number for trial in again.trials()] == [1]
    assert study.name == again.name


def test_what_somebody_queued_and_never_asked_for_is_not_taken_for_ours(storage: str) -> None:
    study = open_study(storage, make_record(), None, fresh=False)
    study._inner.enqueue_trial(dict(make_config(attention="eager")))
    trial = make_trial(0)
    add(study, trial)
    assert [kept.config for kept in study.trials()] == [trial.config]
    add(study, make_trial(0, precision="bf16"))
    assert [kept.number for kept in study.trials()] == [1, 2]


def test_a_running_trial_of_a_living_process_is_left_alone(storage: str) -> None:
    study = open_study(storage, make_record(), None, fresh=False)
    number = study.begin(make_config())
    open_study(storage, make_record(), None, fresh=False)
    study.finish(make_trial(number))
    assert len(study.trials()) == 1


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, and long enough for SQLite to look at it twice")
    with pytest.raises(UserError, match="not a storage of studies"):
        open_study(f"sqlite:///{path}", make_record(), None, fresh=False)
    with pytest.raises(UserError, match="not a storage of studies"):
        open_study("nonsense", make_record(), None, fresh=False)
    assert path.read_text().startswith("not a database")


def test_another_program_s_study_is_not_touched(storage: str) -> None:
    import optuna

    optuna.create_study(storage=storage, study_name="theirs")
    with pytest.raises(UserError, match="was not made by autofit"):
        open_study(storage, make_record(), "theirs", fresh=False)
    with pytest.raises(UserError, match="There is no study"):
        load_study(storage, None)


def test_the_newest_study_is_the_one_that_is_loaded_without_a_name(storage: str) -> None:
    add(open_study(storage, make_record(), "first", fresh=False), make_trial(0))
    add(open_study(storage, make_record(), "second", fresh=False), make_trial(0))
    assert load_study(storage, None).name == "second"
    with pytest.raises(UserError, match="there are: first, second"):
        load_study(storage, "third")


def test_a_configuration_under_which_the_search_died_several_times_is_not_tried_again(storage: str) -> None:
    study = open_study(storage, make_record(), None, fresh=False)
    nobody = subprocess.Popen(["true"])
    nobody.wait()
    for died in range(1, MOST_ORPHANS + 1):
        assert study.trials() == ()
        study._inner.enqueue_trial(
            dict(make_config()), user_attrs={"process": nobody.pid, "host": socket.gethostname()}
        )
        study._inner.ask(_distributions(make_config()))
        study.reap()
        assert len(study.trials()) == (died == MOST_ORPHANS)
    (trial,) = study.trials()
    assert trial.outcome is Outcome.CRASHED and trial.config == make_config() and "killed 3 times" in trial.reason


def test_another_program_s_database_is_neither_used_nor_changed(tmp_path: Path) -> None:
    path = tmp_path / "contacts.db"
    with contextlib.closing(sqlite3.connect(path)) as file:
        file.execute("create table contacts (name text)")
        file.commit()
    before = path.read_bytes()
    for attempt in (
        lambda: load_study(f"sqlite:///{path}", None),
        lambda: open_study(f"sqlite:///{path}", make_record(), None, fresh=False),
    ):
        with pytest.raises(UserError, match="belongs to another program: it holds the table 'contacts'"):
            attempt()
    assert path.read_bytes() == before


def test_asking_for_a_study_makes_no_database(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no study"):
        load_study(f"sqlite:///{tmp_path / 'none.db'}", None)
    assert list(tmp_path.iterdir()) == []


def test_a_password_is_never_shown() -> None:
    url = "postgresql+psycopg://me:secret@127.0.0.1:1/db"
    assert "secret" not in without_password(url) and "me" in without_password(url)
    with pytest.raises(UserError) as caught:
        load_study(url, None)
    assert "secret" not in str(caught.value)
    with pytest.raises(UserError) as caught:
        open_study("mysql+nothing://me:secret@h/db", make_record(), None, fresh=False)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "ONEDNN_MAX_CPU_ISA", "CUDA_LAUNCH_BLOCKING", "MALLOC_ARENA_MAX"])
def test_variables_that_change_speed_make_another_study(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(name, raising=False)
    without = make_record(environment=set_variables())
    monkeypatch.setenv(name, "1")
    assert make_record(environment=set_variables()).identity != without.identity


def test_variables_that_only_say_where_something_is_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    before = set_variables()
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_HOME", "TORCHINDUCTOR_CACHE_DIR", "AUTOFIT_HOME"):
        monkeypatch.setenv(name, "1")
    assert set_variables() == before


@pytest.mark.parametrize("folder", ["dollar$(touch x)", "with space", "tab\tand\nline", "-rf", "ünï"])
def test_a_study_s_name_needs_no_quoting_in_a_shell(folder: str) -> None:
    workload = dataclasses.replace(make_situation().workload, model=f"./{folder}")
    name = make_record(workload=workload).default_name
    assert re.fullmatch(r"[A-Za-z0-9_.][A-Za-z0-9._-]*", name)


def test_the_method_is_in_the_name() -> None:
    assert "-lora-" in make_record(workload=make_situation(method="lora", missing={}).workload).default_name


def test_what_the_last_search_left_out_is_not_recommended(storage: str) -> None:
    study = open_study(storage, make_record(situation=make_situation()), None, fresh=False)
    quick, exact = make_trial(0, seconds=0.5, precision="bf16"), make_trial(1)
    for trial in (quick, exact):
        add(study, trial)

    def search(request: SpaceRequest, baseline: TrainConfig | None = None) -> list[Role]:
        study.keep_request(request, baseline)
        return [trial.role for trial in study.trials()]

    assert search(SpaceRequest()) == [Role.CANDIDATE, Role.CANDIDATE]
    assert rank(study.trials()).best.trial.number == 0
    assert search(SpaceRequest(numerics="exact")) == [Role.LEFT_OUT, Role.CANDIDATE]
    ranking = rank(study.trials())
    # It is shown, and the defaults that speed-ups are over are those of the search.
    assert ranking.best.trial.number == 1 and len(ranking.ranked) == 2 and ranking.reference.number == 1
    # What was tried before the user said what they train with now is their own nevertheless.
    assert search(SpaceRequest(), quick.config) == [Role.BASELINE, Role.CANDIDATE]
    assert search(SpaceRequest(numerics="exact"), quick.config) == [Role.OUTSIDE, Role.CANDIDATE]
    assert search(SpaceRequest()) == [Role.CANDIDATE, Role.CANDIDATE]


def test_a_search_goes_by_its_own_request_whatever_another_asks_of_the_study(storage: str) -> None:
    mine = open_study(storage, make_record(situation=make_situation()), None, fresh=False)
    add(mine, make_trial(0, precision="bf16"))
    mine.keep_stopped("--max-trials allows 1 trial")
    mine.keep_request(SpaceRequest(), None)
    assert mine.stopped == ""
    other = load_study(storage, mine.name)
    other.keep_request(SpaceRequest(numerics="exact"), None)
    assert [trial.role for trial in mine.trials()] == [Role.CANDIDATE]
    assert [trial.role for trial in load_study(storage, mine.name).trials()] == [Role.LEFT_OUT]


def test_a_request_of_another_release_leaves_the_roles_as_they_were_stored(storage: str) -> None:
    study = open_study(storage, make_record(situation=make_situation()), None, fresh=False)
    add(study, make_trial(0, role=Role.OUTSIDE))
    for request in ({"numerics": "lax"}, {"fix": {"colour": "red"}}):
        study._inner.set_user_attr("baseline", None)
        study._inner.set_user_attr("request", request)
        assert [trial.role for trial in study.trials()] == [Role.OUTSIDE]
