"""A trial of several processes on one host: forked side by side, and ended together.

Each has the variables that torchrun sets, so that what runs in them is what torchrun would run; forked from a process
that has imported torch, they need not import it again. torchrun ends the others when one process ends; here they also
end when one is stopped, and the trial's result is that of the process that failed first.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from autofit.study.outcome import Outcome
from autofit.study.trial import RunResult
from autofit.trial.protocol import JobFiles, JobResult, TrialResult, read_result

STOPPED_SECONDS = 15.0
"""A process that was stopped by a signal and not continued within so many seconds is no longer waited for."""
GATHER_SECONDS = 1.0
"""After the first failure: others fail because of it, and one of them may be the cause."""
POLL_SECONDS = 0.02
FAILED = 3

RunJob = Callable[[Path], JobResult]


def own_rank() -> int:
    """Number of this process among those of its training; 0 where it is alone."""
    return int(os.environ.get("RANK", "0"))


def is_rank() -> bool:
    """True in one of several processes."""
    return "RANK" in os.environ


def copy_for(path: Path, rank: int) -> Path:
    """A copy of a job for one process. The first one's phases are the job's own, which its parent watches."""
    own = path.with_name(f"{path.stem}-rank{rank}.json")
    shutil.copyfile(path, own)
    JobFiles(own).result.unlink(missing_ok=True)
    if rank == 0:
        JobFiles(own).phases.unlink(missing_ok=True)
        JobFiles(own).phases.symlink_to(JobFiles(path).phases)
    return own


def is_failure(result: JobResult | None) -> bool:
    """True for a trial that measured nothing."""
    return not isinstance(result, TrialResult) or result.run.outcome is not Outcome.OK


def run_in_ranks(path: Path, number: int, run_job: RunJob) -> JobResult:
    """Run a job in ``number`` processes; the first one's result, or that of the failure that ended them.

    Where one was ended by a signal, this process ends by the same: whoever started it tells what that means.
    """
    copies = [copy_for(path, rank) for rank in range(number)]
    ended, stopped = run_side_by_side(number, lambda rank: not is_failure(run_job(copies[rank])))
    if stopped is not None:
        reason = f"process {stopped} of {number} was stopped, and the others waited for it"
        return TrialResult(run=RunResult(outcome=Outcome.TIMEOUT, reason=reason))
    files = [JobFiles(own).result for own in copies]
    results = {rank: read_result(file) for rank, file in enumerate(files)}
    # What fails because another has gone is written after that one's own result.
    written = sorted((file.stat().st_mtime_ns, rank) for rank, file in enumerate(files) if file.exists())
    return _verdict(ended, results, [rank for _, rank in written])


def run_side_by_side(number: int, succeeds: Callable[[int], bool]) -> tuple[dict[int, int], int | None]:
    """Fork the processes of one training; their exit codes by rank as they ended, and the rank that was stopped.

    Each runs ``succeeds`` with its rank and ends by 0 or ``FAILED``. They meet at a store in this process, as under
    torchrun. Its port is bound before the first of them begins: one that was only found free may be another program's
    by the time it is bound. The store's thread begins when all have been forked. Raises OSError without a free port.
    """
    meeting = socket.create_server(("127.0.0.1", 0), backlog=number)
    port = meeting.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": True}
    children: dict[int, int] = {}
    for rank in range(number):
        child = os.fork()
        if child == 0:
            meeting.close()
            own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": number, "LOCAL_WORLD_SIZE": number}
            _become_rank(rank, {name: str(value) for name, value in {**shared, **own}.items()}, succeeds)
        children[child] = rank
    return _await(children, meeting)


def _verdict(ended: Mapping[int, int], results: Mapping[int, JobResult | None], written: Sequence[int]) -> JobResult:
    """The result of a trial by the exit codes and results of its processes; ``written`` has these in their order.

    Libraries abort a process whose peer has gone: that is no cause where another one has written one.
    """
    for rank, code in ended.items():
        if code < 0 and results[rank] is None and not (written and code == -signal.SIGABRT):
            print(f"process {rank} was ended by signal {-code}", file=sys.stderr, flush=True)
            if -code != signal.SIGKILL:
                signal.signal(-code, signal.SIG_DFL)
            os.kill(os.getpid(), -code)
    failures = [result for rank in written if isinstance(result := results[rank], TrialResult) and is_failure(result)]
    out_of_memory = [each for each in failures if each.run.outcome is Outcome.OOM]
    for found in (*out_of_memory, *failures):
        return found
    first = results.get(0)
    if first is None:
        lost = next((rank for rank in ended if results[rank] is None), 0)
        reason = f"process {lost} ended without a result"
        return TrialResult(run=RunResult(outcome=Outcome.CRASHED, reason=reason))
    return first


def _await(children: Mapping[int, int], meeting: socket.socket) -> tuple[dict[int, int], int | None]:
    """Exit codes by rank, in the order in which they came, and the rank that was stopped; whoever is left is killed."""
    ended: dict[int, int] = {}
    stopped_at: dict[int, float] = {}
    failed_at: float | None = None
    try:
        store = _store_at(meeting)
        while len(ended) < len(children):
            now = time.monotonic()
            for child, rank in children.items():
                if rank in ended:
                    continue
                found, status = os.waitpid(child, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
                if found and os.WIFSTOPPED(status):
                    stopped_at[rank] = now
                elif found and os.WIFCONTINUED(status):
                    stopped_at.pop(rank, None)
                elif found:
                    ended[rank] = os.waitstatus_to_exitcode(status)
                    if ended[rank] != 0 and failed_at is None:
                        failed_at = now
                elif now - stopped_at.get(rank, now) > STOPPED_SECONDS:
                    return ended, rank
            if failed_at is not None and now - failed_at > GATHER_SECONDS:
                return ended, None
            time.sleep(POLL_SECONDS)
        del store
        return ended, None
    finally:
        for child, rank in children.items():
            if rank not in ended:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)


def _store_at(meeting: socket.socket) -> object:
    """A store that answers at a socket which listens, until it is dropped."""
    import torch

    host, port = meeting.getsockname()
    return torch.distributed.TCPStore(
        host, port, is_master=True, wait_for_workers=False, master_listen_fd=meeting.detach()
    )


def _become_rank(rank: int, variables: Mapping[str, str], succeeds: Callable[[int], bool]) -> NoReturn:
    code = FAILED
    try:
        os.environ.update(variables)
        if "OMP_NUM_THREADS" not in os.environ:
            # As torchrun has it.
            os.environ["OMP_NUM_THREADS"] = "1"
            import torch

            torch.set_num_threads(1)
        code = 0 if succeeds(rank) else FAILED
    except BaseException:  # nothing may return into what the parent does
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
