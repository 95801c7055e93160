"""Programs of one's own, run for real: searched, applied, refused, and left as they were."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from autofit.cli.main import main
from autofit.errors import UserError
from autofit.knobs.space import SpaceRequest
from autofit.own_program import _keeping
from autofit.study.store import load_study
from tests.knobs.test_own_program import situation_of

pytestmark = pytest.mark.usefixtures("short_measuring")

MODEL = """
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, default_data_collator, set_seed

set_seed(0)
model = LlamaForCausalLM(
    LlamaConfig(hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4, vocab_size=512)
)
generator = torch.Generator().manual_seed(1)
rows = [torch.randint(1, 512, (48,), generator=generator) for _ in range(128)]
samples = [{"input_ids": row, "labels": row} for row in rows]


def trainer_of(cls=Trainer, **changes):
    settings = dict(per_device_train_batch_size=8, gradient_accumulation_steps=2, max_steps=6, logging_steps=1)
    settings |= dict(save_strategy="no", report_to="none", use_cpu=True, output_dir="output", disable_tqdm=True)
    arguments = TrainingArguments(**{**settings, **changes})
    return cls(model=model, args=arguments, train_dataset=samples, data_collator=default_data_collator)
"""
PLAIN = """
import json
import sys
from pathlib import Path
from shared import trainer_of

trainer = trainer_of()
trainer.train()
losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
Path(sys.argv[1]).write_text(json.dumps(losses))
"""
FEW = ["--device", "cpu", "--budget", "5m", "--quiet", "--fix", "precision=fp32", "--fix", "attention=sdpa"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model to import, and the working directory."""
    place = tmp_path / "program"
    place.mkdir()
    (place / "shared.py").write_text(MODEL)
    monkeypatch.chdir(place)
    return place


def program(folder: Path, text: str) -> list[str]:
    """A command that runs a program."""
    (folder / "train.py").write_text(text)
    return [sys.executable, "train.py"]


def searched(capfd: pytest.CaptureFixture[str], options: list[str], command: list[str]) -> dict[str, Any]:
    capfd.readouterr()
    assert main(["run", *FEW, "--json", *options, "--", *command]) == 0
    document: dict[str, Any] = json.loads(capfd.readouterr().out)
    return document


def refused(capfd: pytest.CaptureFixture[str], command: list[str], *options: str) -> str:
    assert main(["run", *FEW, *options, "--", *command]) == 2
    return capfd.readouterr().err


@pytest.mark.whole
def test_a_program_is_searched_at_its_own_effective_batch_and_left_as_it_was(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = [*program(folder, PLAIN), "losses.json"]
    document = searched(capfd, ["--max-trials", "4"], command)
    assert document["workload"]["effective_batch"] == 16
    for trial in document["trials"]:
        assert trial["config"]["micro_batch_size"] * trial["config"]["accumulation_steps"] == 16
    first = document["trials"][0]
    assert (first["config"]["micro_batch_size"], first["config"]["accumulation_steps"]) == (8, 2)
    assert first["number"] == document["reference"] or document["ranked_confirmed"][0]
    assert document["program"]["trainer"] == "Trainer" and document["program"]["model"] == "LlamaForCausalLM"
    # It went no further than its training, and wrote nothing.
    assert {path.name for path in folder.iterdir()} <= {"shared.py", "train.py", "__pycache__", "output"}
    assert not list((folder / "output").glob("*")) if (folder / "output").exists() else True

    again = searched(capfd, ["--max-trials", "4"], command)
    assert [trial["number"] for trial in again["trials"]] == [trial["number"] for trial in document["trials"]]
    (folder / "shared.py").write_text(MODEL.replace("hidden_size=64", "hidden_size=32"))
    other = searched(capfd, ["--max-trials", "1"], command)
    assert other["study"]["name"] != document["study"]["name"]


@pytest.mark.whole
def test_under_a_limit_that_its_settings_exceed_it_trains_to_the_end_with_the_same_losses(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # Long rows: what a micro-batch needs has to be large beside what a heap keeps or gives back by chance.
    (folder / "shared.py").write_text(MODEL.replace("(48,)", "(192,)"))
    large = PLAIN.replace("trainer_of()", "trainer_of(per_device_train_batch_size=16, gradient_accumulation_steps=1)")
    command = [*program(folder, large), "losses.json"]
    own = searched(capfd, ["--max-trials", "1"], command)["trials"][0]["measurement"]["needed_bytes"]
    subprocess.run([sys.executable, "train.py", "plain.json"], check=True, capture_output=True)

    limit = ["--memory-limit", f"{own * 3 // 4 // 2**20}MiB", "--headroom", "0%", "--max-trials", "5", "--apply"]
    assert main(["run", *FEW, *limit, "--", *command]) == 0
    output = capfd.readouterr()
    assert "oom" in output.out and "autofit: training with" in output.err
    plain, applied = (json.loads(Path(name).read_text()) for name in ("plain.json", "losses.json"))
    assert applied == pytest.approx(plain, rel=1e-4) and len(applied) == 6


def test_ctrl_c_ends_every_process_and_keeps_what_was_measured(folder: Path) -> None:
    command = [*program(folder, PLAIN), "losses.json"]
    words = ["run", "--device", "cpu", "--budget", "10m", "--study", "cut", "--", *command]
    process = subprocess.Popen(
        [sys.executable, "-m", "autofit", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Whoever runs the tests in the background ignores SIGINT, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("[0]"):
            break
    started = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "#" in output and f"Go on with: {shlex.join(['autofit', *words])}" in errors
    assert started and not psutil.wait_procs(started, timeout=10)[1]
    study = load_study(f"sqlite:///{Path(os.environ['AUTOFIT_HOME']) / 'studies.db'}", "cut")
    assert study.trials()[0].config.split == "8 x 2"


def test_doctor_says_what_is_the_programs_own(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--device", "cpu", "--", *program(folder, PLAIN)]) == 0
    output = " ".join(capfd.readouterr().out.split())
    assert "train.py: Trainer, LlamaForCausalLM" in output and "your 8 x 2 = 16 samples a step" in output
    assert "the program's: the program's own data set and collator make the micro-batches" in output
    assert "no pure_bf16 (pure): the program's weights are float32" in output
    assert "yes adamw_torch (exact)" in output and "predicted by tracing its own steps" in output


OUT_OF_MEMORY = """
import json, sys, torch
from pathlib import Path
from shared import Trainer, trainer_of


class SmallCard(Trainer):
    def compute_loss(self, model, inputs, *args, **kwargs):
        if self.state.global_step >= 2 and len(inputs["input_ids"]) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB (made up)")
        return super().compute_loss(model, inputs, *args, **kwargs)


trainer = trainer_of(SmallCard)
trainer.train()
losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
Path(sys.argv[1]).write_text(json.dumps(losses))
"""


@pytest.mark.whole
def test_a_program_that_runs_out_of_memory_goes_on_when_only_that_is_asked_for(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = program(folder, OUT_OF_MEMORY)
    assert subprocess.run([*command, "broken.json"], capture_output=True).returncode != 0
    assert main(["run", "--only-recover", "--", *command, "losses.json"]) == 0
    assert "out of memory in step 3" in capfd.readouterr().err
    subprocess.run([*program(folder, PLAIN), "plain.json"], check=True, capture_output=True)
    # A mean over each micro-batch of equal rows is the same in halves.
    assert json.loads(Path("losses.json").read_text()) == pytest.approx(
        json.loads(Path("plain.json").read_text()), rel=1e-4
    )


def test_a_programs_exit_code_is_passed_on(folder: Path) -> None:
    assert main(["run", "--only-recover", "--", *program(folder, "raise SystemExit(7)")]) == 7


def test_without_the_hook_nothing_is_said_to_be_guarded(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--only-recover", "--", *program(folder, "print('done')")]) == 2
    assert "ended without autofit" in capfd.readouterr().err


TWICE = """
from shared import trainer_of

for size in (4, 8):
    trainer_of(per_device_train_batch_size=size, gradient_accumulation_steps=1).train()
"""


def test_a_knob_that_is_kept_stays_as_the_program_has_it() -> None:
    situation = situation_of(optim="adamw_torch")
    kept = _keeping(SpaceRequest(), ["optimizer", "batch_layout", "micro_batch_size"], situation)
    assert kept.fix == {"optimizer": "adamw_torch", "micro_batch_size": "8"}
    with pytest.raises(UserError, match="no knob 'optimiser'"):
        _keeping(SpaceRequest(), ["optimiser"], situation)


def test_the_call_that_is_meant_can_be_named(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    document = searched(capfd, ["--max-trials", "1", "--trainer", "2"], program(folder, TWICE))
    assert document["workload"]["effective_batch"] == 8


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("raise ValueError('no such file: data.csv')", "exit code 1 before it called Trainer.train()"),
        ("print('hello')", "without importing transformers' Trainer"),
        ("import shared", "Trainer.train() was never called"),
        ("input('which model? ')", "asks for input"),
        ("print('x' * 100_000_000)\nimport time\ntime.sleep(60)", "printed more than"),
        ("from shared import *\nsamples[:] = samples[:8]\ntrainer_of().train()", "fewer than one effective batch"),
    ],
    ids=["fails", "other", "no-train", "input", "flood", "few-samples"],
)
def test_a_program_that_cannot_be_searched_ends_in_a_sentence(
    folder: Path, capfd: pytest.CaptureFixture[str], text: str, expected: str
) -> None:
    assert expected in refused(capfd, program(folder, text))


def test_a_python_that_ignores_its_environment_is_said_to_be_without_the_hook(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _, script = program(folder, "print('hello')")
    assert "hook was not loaded" in refused(capfd, [sys.executable, "-I", script])


def test_a_command_that_is_not_there_is_named(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "'no-such-command' cannot be started" in refused(capfd, ["no-such-command"])


def test_a_command_is_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--budget", "1m"]) == 2
    assert "after --" in capfd.readouterr().err


ON_ONE_RANK = OUT_OF_MEMORY.replace(
    "if self.state.global_step >= 2 and", "if self.args.process_index == 1 and self.state.global_step >= 2 and"
).replace("Path(sys.argv[1])", "Path(f'{trainer.args.process_index}-{sys.argv[1]}')")
LATER_ON_ONE_RANK = """
import json, sys, torch
from pathlib import Path
from shared import Trainer, trainer_of


class SmallCard(Trainer):
    failed = False

    def reached(self, moment):
        if moment == sys.argv[2] and self.args.process_index == 1 and self.state.global_step >= 2 and not self.failed:
            self.failed = True
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB (made up)")

    def create_optimizer(self, *args, **kwargs):
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(*args, **kwargs)
        if is_new:
            optimizer.register_step_pre_hook(lambda *hooked: self.reached("optimizer"))
        return optimizer


trainer = trainer_of(SmallCard)
backward = trainer.accelerator.backward


def limited(loss, **kwargs):
    backward(loss, **kwargs)
    trainer.reached("backward")


trainer.accelerator.backward = limited
trainer.train()
losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
Path(f"{trainer.args.process_index}-{sys.argv[1]}").write_text(json.dumps(losses))
"""


IN_PARTS = """
from accelerate.state import DistributedType, PartialState
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback
from shared import trainer_of, TrainingArguments


class Parts(TrainerCallback):
    def on_step_end(self, args, state, control, model, **kwargs):
        assert all(isinstance(each, DTensor) for each in model.parameters()), "not in parts"


before = TrainingArguments.__post_init__


def on_the_host(arguments):
    before(arguments)
    assert arguments.device.type == "cpu"
    # accelerate cuts parameters into parts on accelerators alone.
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


TrainingArguments.__post_init__ = on_the_host
trainer = trainer_of(bf16=True, fsdp=True, fsdp_config={"version": 2})
trainer.add_callback(Parts())
trainer.train()
"""


WITH_ZERO = """
from accelerate.state import DistributedType, PartialState
# accelerate starts DeepSpeed on GPUs alone.
PartialState._prepare_backend = lambda *args, **kwargs: ("gloo", DistributedType.MULTI_CPU)
from transformers import TrainerCallback
from shared import trainer_of

SPLIT = {"train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto", "train_batch_size": "auto"}


class Engine(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        engine = trainer.deepspeed
        assert engine.zero_optimization_stage() == 3
        assert engine.train_micro_batch_size_per_gpu() == args.per_device_train_batch_size
        assert engine.gradient_accumulation_steps() == args.gradient_accumulation_steps


trainer = trainer_of(use_cpu=False, deepspeed={**SPLIT, "zero_optimization": {"stage": 3}})
trainer.add_callback(Engine())
trainer.train()
"""


@pytest.fixture
def two_ranks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A launcher of two processes on the CPU; port 0 is any free one."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    endpoint = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    return [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *endpoint]


@pytest.mark.whole
def test_one_processs_out_of_memory_is_the_trials_and_smaller_ones_are_found(
    folder: Path, capfd: pytest.CaptureFixture[str], two_ranks: list[str]
) -> None:
    always = ON_ONE_RANK.replace("self.state.global_step >= 2", "True")
    command = [*two_ranks, program(folder, always)[1], "losses.json"]
    # Its own 8 x 2 does not fit; the first that is tried with half of it does.
    document = searched(capfd, ["--max-trials", "2", "--fix", "optimizer=adamw_torch_fused"], command)
    assert document["workload"]["effective_batch"] == 32 and document["workload"]["processes"] == 2
    first, second = document["trials"][:2]
    assert first["outcome"] == "oom" and first["config"]["micro_batch_size"] == 8
    assert second["outcome"] == "ok" and second["config"]["micro_batch_size"] <= 4


@pytest.mark.whole
def test_a_program_that_cuts_its_parameters_into_parts_is_searched_in_its_own_way(
    folder: Path, capfd: pytest.CaptureFixture[str], two_ranks: list[str]
) -> None:
    command = [*two_ranks, program(folder, IN_PARTS)[1]]
    document = searched(capfd, ["--max-trials", "2", "--fix", "optimizer=adamw_torch"], command)
    assert document["workload"]["effective_batch"] == 32 and document["workload"]["processes"] == 2
    first, second = (trial["config"] for trial in document["trials"][:2])
    assert (first["precision"], second["precision"]) == ("bf16", "fp32")
    assert {first["parallelism"], second["parallelism"]} == {"fsdp2"}
    assert {trial["outcome"] for trial in document["trials"][:2]} == {"ok"}, document["trials"]


@pytest.mark.whole
def test_a_program_that_trains_with_deepspeed_is_searched_with_its_own_settings(
    folder: Path,
    capfd: pytest.CaptureFixture[str],
    two_ranks: list[str],
    deepspeed: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", deepspeed)
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    command = [*two_ranks, program(folder, WITH_ZERO)[1]]
    document = searched(capfd, ["--max-trials", "2", "--fix", "micro_batch_size=4"], command)
    assert document["workload"]["effective_batch"] == 32 and document["model"]["num_parameters"] > 100_000
    first, second = (trial["config"] for trial in document["trials"][:2])
    assert first["parallelism"] == second["parallelism"] == "zero3"
    assert (first["micro_batch_size"], second["micro_batch_size"]) == (8, 4)
    assert {trial["outcome"] for trial in document["trials"][:2]} == {"ok"}, document["trials"]


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["backward", "optimizer"])
def test_two_processes_go_on_though_one_ran_out_of_memory_later_in_its_step(
    folder: Path, capfd: pytest.CaptureFixture[str], two_ranks: list[str], moment: str
) -> None:
    command = [*two_ranks, program(folder, LATER_ON_ONE_RANK)[1]]
    assert main(["run", "--only-recover", "--", *command, "losses.json", moment]) == 0
    assert "out of memory in" in capfd.readouterr().err
    subprocess.run([*command, "plain.json", "never"], check=True, capture_output=True)
    recovered, plain = (json.loads(Path(f"0-{name}.json").read_text()) for name in ("losses", "plain"))
    assert recovered == pytest.approx(plain, rel=1e-4)


@pytest.mark.slow
def test_two_processes_go_on_though_only_one_ran_out_of_memory(
    folder: Path, capfd: pytest.CaptureFixture[str], two_ranks: list[str]
) -> None:
    command = [*two_ranks, program(folder, ON_ONE_RANK)[1], "losses.json"]
    assert main(["run", "--only-recover", "--", *command]) == 0
    assert "out of memory in step 3" in capfd.readouterr().err
    (folder / "train.py").write_text(ON_ONE_RANK.replace("len(inputs", "False and len(inputs"))
    subprocess.run([*two_ranks, "train.py", "plain.json"], check=True, capture_output=True)
    recovered, plain = (json.loads(Path(f"0-{name}.json").read_text()) for name in ("losses", "plain"))
    assert recovered == pytest.approx(plain, rel=1e-4)


def test_a_sitecustomize_of_the_users_own_still_runs(folder: Path) -> None:
    (folder / "own").mkdir()
    (folder / "own" / "sitecustomize.py").write_text("import os\nos.environ['OWN_ONE_RAN'] = 'yes'\n")
    from autofit.trial.program import under_hook

    environment = under_hook({**os.environ, "PYTHONPATH": str(folder / "own")})
    script = "import os; print(os.environ.get('OWN_ONE_RAN'))"
    output = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert output.stdout.strip() == "yes"
