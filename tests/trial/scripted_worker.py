"""A stand-in for a worker process that obeys one word: ``python scripted_worker.py WORD JOB``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from autofit.study.outcome import Outcome
from autofit.study.trial import RunResult
from autofit.trial.protocol import JobFiles, TrialResult, note_phase, write_document


def main(word: str, job: Path) -> None:
    # Imported by path: the double for measurements lies beside the tests.
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from tests.doubles import make_measurement

    files = JobFiles(job)
    good = TrialResult(run=RunResult(outcome=Outcome.OK, measurement=make_measurement(0.5)))
    if word == "succeed":
        write_document(files.result, good)
    elif word == "raise":
        raise ValueError("the scripted failure")
    elif word == "hang":
        time.sleep(600)
    elif word == "exit-3":
        print("words before the end")
        sys.exit(3)
    elif word == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif word == "segfault":
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGSEGV)
    elif word == "slow-segfault":
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGSEGV)
    elif word == "kill-once":
        mark = files.job.with_suffix(".killed")
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        write_document(files.result, good)
    elif word == "kill-with-scratch":
        files.scratch.mkdir(exist_ok=True)
        (files.scratch / "weights").write_bytes(b"0")
        os.kill(os.getpid(), signal.SIGKILL)
    elif word == "flood":
        while True:
            print("x" * 10_000, flush=True)
    elif word == "garbage":
        files.result.write_bytes(b"\x00\xff this is no result")
    elif word == "half":
        files.result.write_bytes(b'{"type":"trial","run":{"outcome":"ok","measurement":{"micro')
    elif word == "other-format":
        files.result.write_bytes(b'{"type":"trial","run":{"outcome":"ok"},"format":99}')
    elif word == "noisy":
        print("x" * 2_000_000, flush=True)
        print("Error: this is only noise", file=sys.stderr)
        write_document(files.result, good)
    elif word == "helper":
        helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        files.job.with_suffix(".helper").write_text(str(helper.pid))
        write_document(files.result, good)
    elif word == "hang-with-helper":
        helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        files.job.with_suffix(".helper").write_text(str(helper.pid))
        time.sleep(600)
    elif word == "stuck-first-step":
        note_phase(files.phases, "first_micro_step", time.monotonic())
        time.sleep(600)
    elif word == "oom-text":
        print("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 3.00 GiB.")
        sys.exit(1)
    else:
        raise AssertionError(f"unknown word {word}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
