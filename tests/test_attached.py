"""A program that asks for the search itself, run for real."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import autofit
from autofit import attached
from autofit.attached import own_command
from autofit.errors import UserError
from autofit.trial.program import JOB_VARIABLE
from tests.test_own_program import MODEL, PLAIN

ATTACHED = PLAIN.replace(
    "trainer = trainer_of()\n",
    """
import autofit
from shared import model, set_seed

begun = {name: weight.clone() for name, weight in model.state_dict().items()}
fix = {"precision": "fp32", "attention": "sdpa"}
other = trainer_of(per_device_train_batch_size=4, gradient_accumulation_steps=1, max_steps=1)
other.train()
set_seed(0)
model.load_state_dict(begun)
trainer = autofit.attach(trainer_of(), budget="3m", max_trials=3, fix=fix)
print("trains as", trainer.args.per_device_train_batch_size, "x", trainer.args.gradient_accumulation_steps)
""",
)


@pytest.mark.whole
def test_the_search_is_made_in_a_copy_and_the_winner_put_into_the_trainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOFIT_HOME", str(tmp_path / "home"))
    assert ATTACHED != PLAIN
    monkeypatch.chdir(tmp_path)
    Path("shared.py").write_text(MODEL)
    for name, text in (("plain", PLAIN), ("attached", ATTACHED)):
        Path(f"{name}.py").write_text(text)
    subprocess.run([sys.executable, "plain.py", "plain.json"], check=True, capture_output=True)

    ran = subprocess.run(
        [sys.executable, "attached.py", "attached.json"], check=True, capture_output=True, text=True, timeout=300
    )
    assert "autofit: training with" in ran.stderr
    result = autofit.load()
    assert result.trials[0].config.split == "8 x 2" and result.ranking.best is not None
    assert f"trains as {result.ranking.best.trial.config.split}\n" in ran.stdout
    plain, attached = (json.loads(Path(f"{name}.json").read_text()) for name in ("plain", "attached"))
    assert attached == pytest.approx(plain, rel=1e-4) and len(attached) == 6


def test_in_a_program_that_autofit_runs_nothing_more_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(JOB_VARIABLE, "job.json")
    trainer = SimpleNamespace()
    assert autofit.attach(trainer) is trainer


@pytest.mark.parametrize("words", [["python"], ["python", "-"], ["python", "-u", "-i"]], ids=" ".join)
def test_an_interactive_python_is_told_that_it_cannot_be_started_again(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "orig_argv", words)
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    with pytest.raises(UserError, match="starts the program again"):
        autofit.attach(SimpleNamespace())


def test_a_launchers_process_is_told_to_put_autofit_in_front_of_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(UserError, match="autofit run --apply -- torchrun"):
        autofit.attach(SimpleNamespace())


def test_the_command_is_the_programs_own_wherever_it_has_gone_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", "-u", "train.py", "--lr", "1e-4"])
    monkeypatch.setattr(sys, "argv", ["train.py", "--lr", "1e-4"])
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(tmp_path / "train.py"), raising=False)
    monkeypatch.chdir(tmp_path.parent)
    assert own_command() == (sys.executable, "-u", str(tmp_path / "train.py"), "--lr", "1e-4")


def test_after_ctrl_c_nothing_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = SimpleNamespace(interrupted=True)
    monkeypatch.setattr(attached, "search_program", lambda request, observer: stopped)
    monkeypatch.setattr(attached, "own_command", lambda: ("python", "train.py"))
    with pytest.raises(KeyboardInterrupt):
        autofit.attach(SimpleNamespace(args=SimpleNamespace(use_cpu=True)))
