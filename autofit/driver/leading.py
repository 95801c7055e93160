"""Leading a search whose trials a crew runs: on GPUs of this host, and wherever else somebody joins."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

from autofit.driver.crew import Shared
from autofit.driver.local_members import LocalMembers
from autofit.errors import UserError
from autofit.study.roster import LEADER, Place, Roster
from autofit.study.storage import GRACE_SECONDS, HEARTBEAT_SECONDS
from autofit.study.store import Study


def _leader_who_is_there(roster: Roster, say: Callable[[str], None]) -> Place | None:
    """Somebody who leads the search. One who was killed elsewhere is missed after a while, which is waited for."""
    give_up = time.monotonic() + GRACE_SECONDS + 2 * HEARTBEAT_SECONDS
    has_said = False
    while (leader := roster.leader()) is not None and time.monotonic() < give_up:
        if leader.is_here:
            return leader
        if not has_said:
            has_said = True
            say(f"{leader.label} leads this search, or did: waiting for half a minute whether it is still there.")
        time.sleep(HEARTBEAT_SECONDS)
    return leader


def refuse_second_leader(study: Study, say: Callable[[str], None]) -> Roster:
    """The roster of a study that nobody else leads a search of. Raises UserError where somebody does."""
    roster = Roster(study)
    other = _leader_who_is_there(roster, say)
    if other is not None:
        raise UserError(
            f"Study '{study.name}' is being searched by process {other.facts['process']} on {other.facts['host']}: "
            "wait until it ends, add a GPU to it with 'autofit worker', or give this search a --study of its own."
        )
    return roster


@contextlib.contextmanager
def led(
    study: Study, devices: Sequence[str], storage: str, *, trial_seconds: float, say: Callable[[str], None]
) -> Iterator[Shared]:
    """The crew of a study: one process for each of ``devices`` (``cuda:0``), and whoever joins. Ends what it started.

    ``storage`` is the URL with its password. Raises UserError where somebody leads this search already.
    """
    roster = refuse_second_leader(study, say)
    with contextlib.ExitStack() as ends:
        ends.enter_context(roster.joined(LEADER))
        local = None
        if devices:
            local = LocalMembers(devices, study.name, storage, study.log_folder, trial_seconds=trial_seconds)
            ends.callback(local.close)
        yield Shared(study, say, local)
