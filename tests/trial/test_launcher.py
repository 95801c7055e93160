"""Starting and killing: the trial server, forked children and their groups."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from autofit.device.kinds import kind_of
from autofit.job.models import ModelSource
from autofit.trial.launcher import FreshInterpreters, LaunchError, TrialServer, worker_environment
from autofit.trial.protocol import JobFiles, ProbeJob, ProbeResult, read_result, write_document
from autofit.trial.workshop import Workshop
from autofit.worker import hidden_import
from autofit.worker.server import _kill_group
from tests.doubles import make_situation


def gone(process_id: int, patience: float = 10.0) -> bool:
    """True if a process ends (or is a zombie nobody has reaped) within some seconds."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            if psutil.Process(process_id).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrialServer]:
    folder = tmp_path_factory.mktemp("server")
    made = TrialServer(worker_environment(""), "cpu", folder / "server.log")
    made.await_ready()
    yield made
    made.close()


def probe_job(folder: Path, source: ModelSource) -> Path:
    path = folder / "probe.json"
    workload = dataclasses.replace(make_situation().workload, model=source.name)
    write_document(path, ProbeJob(model=source, workload=workload, device="cpu"))
    return path


def ended(server: TrialServer, seconds: float = 60.0) -> int:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        code = server.wait(1.0)
        if code is not None:
            return code
    raise AssertionError("the worker did not end")


def probed(server: TrialServer, folder: Path, source: ModelSource) -> ProbeResult:
    """A probe's answer, from a forked worker that ended well."""
    job = probe_job(folder, source)
    server.start(job)
    assert ended(server) == 0
    answer = read_result(JobFiles(job).result)
    assert isinstance(answer, ProbeResult)
    return answer


def test_a_forked_worker_answers_and_leads_its_own_session(
    server: TrialServer, tmp_path: Path, tiny_source: ModelSource
) -> None:
    answer = probed(server, tmp_path, tiny_source)
    assert answer.model is not None
    assert answer.model.model_type == "llama" and answer.device is not None and answer.device.kind == "cpu"


def test_children_see_bitsandbytes_though_the_server_does_not(
    server: TrialServer, tmp_path: Path, tiny_source: ModelSource
) -> None:
    answer = probed(server, tmp_path, tiny_source)
    assert answer.libraries is not None
    assert "bitsandbytes" not in answer.libraries.missing


def test_a_job_that_cannot_be_read_ends_with_its_reason_in_the_log(server: TrialServer, tmp_path: Path) -> None:
    job = tmp_path / "broken.json"
    job.write_text("{")
    server.start(job)
    assert ended(server) != 0
    assert "DecodeError" in JobFiles(job).log.read_text()


def test_killing_a_worker_leaves_the_server_going(
    server: TrialServer, tmp_path: Path, tiny_source: ModelSource
) -> None:
    job = probe_job(tmp_path, tiny_source)
    worker = server.start(job)
    os.kill(worker, signal.SIGSTOP)
    server.kill()
    assert ended(server) == -signal.SIGKILL
    assert gone(worker)
    JobFiles(job).result.unlink(missing_ok=True)
    server.start(job)
    assert ended(server) == 0 and read_result(JobFiles(job).result) is not None


def test_a_worker_that_has_not_made_its_group_yet_is_killed_too() -> None:
    child = os.fork()
    if child == 0:
        time.sleep(600)
        os._exit(0)
    _kill_group(child)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    _kill_group(sleeper.pid)
    assert sleeper.wait() == -signal.SIGKILL


def test_the_server_ends_itself_and_its_worker_when_its_parent_is_killed(
    tmp_path: Path, tiny_source: ModelSource
) -> None:
    job = probe_job(tmp_path, tiny_source)
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from autofit.trial.launcher import TrialServer, worker_environment\n"
        "server = TrialServer(worker_environment(''), 'cpu', Path(sys.argv[2]))\n"
        "worker = server.start(Path(sys.argv[1]))\n"
        "os.kill(worker, signal.SIGSTOP)\n"
        "print(server._process.pid, worker, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", script, str(job), str(tmp_path / "server.log")]
    output = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False).stdout
    server_id, worker_id = map(int, output.split())
    assert gone(worker_id) and gone(server_id)


def test_a_server_that_cannot_start_says_why_and_fresh_interpreters_take_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONHOME", str(tmp_path / "nowhere"))
    said: list[str] = []
    workshop = Workshop(kind_of("cpu"), 0, tmp_path, said.append)
    assert isinstance(workshop.launcher({}), FreshInterpreters)
    workshop.close()
    assert len(said) == 1 and "fresh Python" in said[0]


def test_where_forking_is_not_safe_the_fallback_is_announced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    said: list[str] = []
    workshop = Workshop(kind_of("cpu"), 0, tmp_path, said.append)
    assert isinstance(workshop.launcher({}), FreshInterpreters)
    assert "not safe on darwin" in said[0]
    with pytest.raises(LaunchError):
        TrialServer({}, "cpu", tmp_path / "log")


def test_variables_that_torch_reads_at_import_get_a_fresh_interpreter(tmp_path: Path) -> None:
    workshop = Workshop(kind_of("cpu"), 0, tmp_path, lambda sentence: None)
    try:
        launcher = workshop.launcher({"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"})
        assert isinstance(launcher, FreshInterpreters)
    finally:
        workshop.close()


def test_one_device_is_visible_and_the_network_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    environment = worker_environment("2")
    assert environment["CUDA_VISIBLE_DEVICES"] == "2" and environment["HF_HUB_OFFLINE"] == "1"
    assert environment["PYTORCH_NVML_BASED_CUDA_CHECK"] == "1"


def test_variables_that_a_knob_decides_are_not_taken_over_and_other_names_for_the_device_follow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    monkeypatch.setenv("TORCHINDUCTOR_MAX_AUTOTUNE", "1")
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "0,1")
    environment = worker_environment("1")
    assert "PYTORCH_CUDA_ALLOC_CONF" not in environment and "TORCHINDUCTOR_MAX_AUTOTUNE" not in environment
    assert environment["HIP_VISIBLE_DEVICES"] == "1"
    assert worker_environment(None)["HIP_VISIBLE_DEVICES"] == "0,1"


@pytest.mark.whole
@pytest.mark.parametrize("package", hidden_import.OPENING_DEVICES)
def test_a_hidden_package_is_not_found_and_is_again_when_shown(package: str) -> None:
    script = (
        "import importlib.util, sys\n"
        "from autofit.worker import hidden_import\n"
        "hidden_import.hide()\n"
        f"assert importlib.util.find_spec('{package}') is None\n"
        "assert importlib.util.find_spec('json') is not None\n"
        f"from transformers.utils import is_{package}_available\n"
        f"assert not is_{package}_available()\n"
        "import transformers.trainer\n"
        f"assert '{package}' not in sys.modules\n"
        "hidden_import.show()\n"
        f"assert is_{package}_available()\n"
        f"import {package}\n"
    )
    assert hidden_import.__doc__
    subprocess.run([sys.executable, "-c", script], check=True, timeout=300)
