"""Two searches at once: the second one is refused, and the lock goes with the process that held it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import autofit
from autofit.device.locks import held
from autofit.errors import UserError
from autofit.job.request import JobRequest
from autofit.study.storage import default_storage
from autofit.study.store import open_study

HOLD = """
import sys, time
from pathlib import Path
from autofit.device.locks import held
with held(Path(sys.argv[1])) as other:
    print("held" if other is None else other, flush=True)
    time.sleep(60)
"""


def test_a_lock_that_another_process_holds_names_it_and_goes_with_it(tmp_path: Path) -> None:
    path = tmp_path / "search.lock"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with held(path) as other:
            assert other == process.pid
        process.send_signal(signal.SIGKILL)
    with held(path) as other:
        assert other is None and path.read_text() == str(os.getpid())


def test_a_study_that_is_being_searched_is_not_searched_by_another_at_the_same_time(tiny_model: Path) -> None:
    record = JobRequest(model=str(tiny_model), effective_batch=4, seq_len=16).record()
    study = open_study(default_storage(), record, None, fresh=False)
    with held(study.log_folder / "search.lock"), pytest.raises(UserError, match="is being searched by process"):
        autofit.search(str(tiny_model), effective_batch=4, seq_len=16)
    assert study.trials() == ()
