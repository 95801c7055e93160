"""Leading a search whose trials a crew runs: on GPUs of this host, and wherever else somebody joins."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from autofit.driver.crew import Shared
from autofit.driver.local_members import LocalMembers
from autofit.errors import UserError
from autofit.study.roster import LEADER, Roster
from autofit.study.store import Study


@contextlib.contextmanager
def led(
    study: Study, devices: Sequence[str], storage: str, *, trial_seconds: float, say: Callable[[str], None]
) -> Iterator[Shared]:
    """The crew of a study: one process for each of ``devices`` (``cuda:0``), and whoever joins. Ends what it started.

    ``storage`` is the URL with its password. Raises UserError where somebody leads this search already.
    """
    roster = Roster(study)
    other = roster.leader()
    if other is not None:
        raise UserError(
            f"Study '{study.name}' is being searched by process {other.facts['process']} on {other.facts['host']}: "
            "wait until it ends, add a GPU to it with 'autofit worker', or give this search a --study of its own."
        )
    with contextlib.ExitStack() as ends:
        ends.enter_context(roster.joined(LEADER))
        local = None
        if devices:
            local = LocalMembers(devices, study.name, storage, study.log_folder, trial_seconds=trial_seconds)
            ends.callback(local.close)
        yield Shared(study, say, local)
