"""Many that run the trials of one search: in processes of their own, killed, and with their database away."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import autofit
from autofit.driver.budget import Budget
from autofit.driver.crew import Assignment, Shared
from autofit.driver.history import History
from autofit.driver.leading import led
from autofit.driver.loop import Search
from autofit.driver.member import check_that_it_is_the_same
from autofit.driver.observer import Observer
from autofit.errors import UserError
from autofit.knobs.space import SearchSpace
from autofit.knobs.train_config import TrainConfig
from autofit.study.queue import Queue
from autofit.study.roster import LEADER, RUNNER, Roster
from autofit.study.store import Study, open_study
from autofit.trial.protocol import MeasuringPlan
from tests.doubles import make_config, make_situation, make_trial
from tests.driver.scripted_member import NARROW
from tests.postgres import Server, programs, server
from tests.study.test_store import make_record

NO_LIMIT = Budget(seconds=None, trials=None)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'studies.db'}"


@pytest.fixture
def database() -> Iterator[Server]:
    if programs() is None:
        pytest.skip("PostgreSQL's server is not installed")
    with server() as running:
        yield running


def study_at(url: str) -> Study:
    return open_study(url, make_record(), "many", fresh=False)


class InOrder:
    """Proposes whatever is neither measured nor ruled out, in the order of the space, and at no cost."""

    conclusion = "everything was tried"
    trials_to_come = None

    def propose(self, history: History) -> TrainConfig | None:
        return next((config for config in history.space.configs if history.outcome(config) is None), None)


def searching(study: Study) -> tuple[Search, SearchSpace]:
    situation = make_situation()
    space = SearchSpace(situation, NARROW)
    made = Search(
        study=study,
        situation=situation,
        space=space,
        strategy=InOrder(),
        budget=NO_LIMIT,
        plan=MeasuringPlan(),
        crew=Shared(study, lambda sentence: None),
        observer=Observer(),
    )
    return made, space


class Members:
    """Scripted members of a study, each a process."""

    def __init__(self, url: str, trial_seconds: float) -> None:
        self._words = [sys.executable, "-m", "tests.driver.scripted_member", url, "many", str(trial_seconds)]
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, number: int = 1) -> None:
        for _ in range(number):
            self.processes.append(
                subprocess.Popen(self._words, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
            )

    def await_ready(self) -> None:
        for process in self.processes:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()


@contextlib.contextmanager
def members(url: str, number: int, trial_seconds: float = 0.2) -> Iterator[Members]:
    made = Members(url, trial_seconds)
    made.start(number)
    try:
        yield made
    finally:
        made.end()


def measured_short(study: Study) -> Counter[TrainConfig]:
    return Counter(trial.config for trial in study.trials() if not trial.whole)


def test_several_members_measure_every_configuration_once(url: str) -> None:
    study = study_at(url)
    with members(url, 3, 0.05):
        search, space = searching(study)
        search.run()
    counts = measured_short(study)
    known = sum(counts.values())
    assert set(counts.values()) == {1} and counts.keys() <= set(space.configs)
    # Some are ruled out by another that ran out of memory.
    assert known >= len(space) / 2
    assert any(trial.whole for trial in study.trials())


@pytest.mark.whole
def test_members_that_are_killed_and_a_database_that_restarts_lose_nothing_and_double_nothing(
    database: Server,
) -> None:
    study = study_at(database.url)
    chance = random.Random(3)
    is_over = threading.Event()
    with members(database.url, 4) as crew:
        crew.await_ready()

        def disturb() -> None:
            for restarts in (False, True, False):
                if is_over.wait(1.0):
                    return
                victim = chance.choice([each for each in crew.processes if each.poll() is None])
                victim.kill()
                if restarts:
                    database.restart()
                crew.start()

        trouble = threading.Thread(target=disturb)
        trouble.start()
        search, space = searching(study)
        search.run()
        is_over.set()
        trouble.join()
    counts = measured_short(study)
    assert set(counts.values()) == {1} and counts.keys() <= set(space.configs)
    assert any(trial.whole for trial in study.trials())


def test_finalists_run_while_nobody_else_runs_anything(url: str) -> None:
    study = study_at(url)
    running: Counter[int] = Counter()

    with members(url, 3, 0.05):
        search, _ = searching(study)

        class Watching(Observer):
            def begun(self, number: int, config: TrainConfig, *, whole: bool) -> None:
                if whole:
                    running[len(Queue(study).outstanding())] += 1

        search._observer = Watching()
        search.run()
    assert running and set(running) == {1}
    ran_by = {entry.user_attrs["member"] for entry in study.entries() if entry.user_attrs["trial"]["whole"]}
    assert len(ran_by) == 1, "rounds are compared, so one card runs them"


def assignment() -> dict[str, object]:
    return Assignment(plan=MeasuringPlan()).as_document()


def test_one_of_those_who_claim_a_trial_has_it(url: str) -> None:
    study = study_at(url)
    queue, other = Queue(study), Queue(study_at(url))
    number = queue.put(make_config(), assignment())
    claimed = queue.claim(7)
    assert claimed is not None and (claimed.number, claimed.config) == (number, make_config())
    assert other.claim(8) is None


def test_a_trial_for_one_member_is_left_alone_by_others(url: str) -> None:
    queue = Queue(study_at(url))
    queue.put(make_config(), assignment(), member=5)
    assert queue.claim(6) is None
    assert queue.claim(5) is not None


def test_an_assignment_comes_back_as_it_was() -> None:
    given = Assignment(plan=MeasuringPlan(whole=True, seed=3), round=2, seconds_left=8.5)
    assert Assignment.of({**given.as_document(), "for": None}) == given


def test_what_is_running_is_seen_by_a_search_that_goes_on(url: str) -> None:
    study = study_at(url)
    queue = Queue(study)
    roster = Roster(study)
    with roster.joined(RUNNER, "cpu") as member:
        number = queue.put(make_config(), assignment())
        assert queue.claim(member.number) is not None
        crew = Shared(study, lambda sentence: None)
        assert dict(crew.running()) == {number: make_config()} and not crew.is_free
        trial = make_trial(number)
        study.finish(trial)
        assert crew.next_ended() == trial
        assert crew.is_free


def test_a_trial_is_given_up_when_its_member_leaves(url: str) -> None:
    study = study_at(url)
    queue, roster = Queue(study), Roster(study)
    with roster.joined(RUNNER, "cpu") as member:
        queue.put(make_config(), assignment())
        assert queue.claim(member.number) is not None
        crew = Shared(study, lambda sentence: None)
    deadline = time.monotonic() + 30
    while crew.running() and time.monotonic() < deadline:
        assert crew.next_ended() is None
    assert not crew.running() and not study.trials()


def test_somebody_of_this_host_who_died_is_struck_off_at_once(url: str) -> None:
    roster = Roster(study_at(url))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    with roster.joined(LEADER):
        facts = {**roster.living()[0].facts, "process": str(dead.pid)}
        roster.add(RUNNER, facts)
        assert [place.part for place in roster.living()] == [LEADER]


def test_somebody_elsewhere_who_is_silent_is_struck_off(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autofit.study.storage.GRACE_SECONDS", 1)
    monkeypatch.setattr("autofit.study.roster.GRACE_SECONDS", 1)
    roster = Roster(study_at(url))
    entry = roster.add(RUNNER, {"host": "elsewhere", "process": "1", "processes": "elsewhere", "device": "cuda:0"})
    roster.beat(entry)
    assert [place.label for place in roster.living()] == ["elsewhere cuda:0"]
    deadline = time.monotonic() + 20
    while roster.living() and time.monotonic() < deadline:
        time.sleep(0.3)
    assert not roster.living()


def test_a_member_with_another_card_or_other_versions_says_so() -> None:
    record = make_record()
    check_that_it_is_the_same(record, record)
    other = make_record(versions={"torch": "2.14.0", "peft": "0.21.0"}, environment={"OMP_NUM_THREADS": "1"})
    with pytest.raises(UserError) as refused:
        check_that_it_is_the_same(record, other)
    for part in ("torch is 2.13.0 there and 2.14.0 here", "peft is missing there", "OMP_NUM_THREADS"):
        assert part in str(refused.value)


def test_a_result_that_comes_after_its_trial_was_given_up_is_dropped(url: str) -> None:
    study = study_at(url)
    number = study.begin(make_config())
    study.give_up(number)
    study.finish(make_trial(number))
    assert study.trials() == ()


def test_a_trial_whose_beginning_was_stored_but_not_answered_is_begun_once(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import OperationalError

    study = study_at(url)
    create = study.storage.create_new_trial
    failures = [True]

    def create_and_lose_the_answer(*given: object) -> int:
        found = create(*given)  # type: ignore[arg-type]
        if failures.pop() if failures else False:
            raise StorageInternalError from OperationalError("insert", {}, ConnectionError("server closed"))
        return found

    monkeypatch.setattr(study.storage, "create_new_trial", create_and_lose_the_answer)
    study.begin(make_config())
    assert len(study.entries()) == 1


def test_of_many_who_claim_at_once_from_one_file_one_has_the_trial(url: str) -> None:
    study = study_at(url)
    precisions = ("fp32", "tf32", "bf16", "fp16", "pure_bf16")
    numbers = [Queue(study).put(make_config(precision=each), assignment()) for each in precisions]
    claimed: list[int] = []
    start = threading.Barrier(4)

    def claim_all(member: int) -> None:
        queue = Queue(study_at(url))
        start.wait()
        while (found := queue.claim(member)) is not None:
            claimed.append(found.number)

    threads = [threading.Thread(target=claim_all, args=(member,)) for member in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == numbers


def test_a_search_that_nobody_joins_ends_with_its_budget(url: str) -> None:
    study = study_at(url)
    search, _ = searching(study)
    search._budget = Budget(seconds=0.5, trials=None)
    assert "--budget" in search.run()
    assert study.trials() == () and not Queue(study).outstanding()


def test_a_second_leader_is_refused(url: str) -> None:
    study = study_at(url)
    with (
        Roster(study).joined(LEADER),
        pytest.raises(UserError, match="is being searched by process"),
        led(study, [], url, trial_seconds=60, say=lambda sentence: None),
    ):
        pass


def test_gpus_side_by_side_and_processes_together_are_not_mixed(tiny_model: Path) -> None:
    with pytest.raises(UserError, match="give one of them"):
        autofit.search(str(tiny_model), effective_batch=8, gpus="none", processes=2)
