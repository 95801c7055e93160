"""Facts of a real Trainer before it trains."""

from __future__ import annotations

import time
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
from accelerate import FullyShardedDataParallelPlugin
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, default_data_collator

from autofit.job.program import Program
from autofit.trial.protocol import ProgramFactsJob
from autofit.worker.program.facts import facts_of, own_code
from autofit.worker.program.hook import RESUMES
from autofit.worker.program.sharing import own_sharing


class HandsOn(Trainer):
    """Makes an optimizer of its own in cases that are not this one, as LLaMA-Factory's and Axolotl's Trainers do."""

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        return super().create_optimizer(*args, **kwargs)


class MakesItsOwn(Trainer):
    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        self.optimizer = torch.optim.RMSprop(self.model.parameters())
        return self.optimizer


class MakesBothItself(Trainer):
    def create_optimizer_and_scheduler(self, num_training_steps: int) -> None:
        self.optimizer = torch.optim.SGD(self.model.parameters())
        self.lr_scheduler = torch.optim.lr_scheduler.ConstantLR(self.optimizer)


class ChoosesByItself(Trainer):
    @staticmethod
    def get_optimizer_cls_and_kwargs(args: Any, model: Any = None) -> tuple[Any, dict[str, Any]]:
        return torch.optim.AdamW, {"lr": 1e-3}


class Fails(Trainer):
    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        raise ValueError("not before the epoch begins")


class SlowSamples(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    def __len__(self) -> int:
        return 16

    def __getitem__(self, place: int) -> dict[str, torch.Tensor]:
        time.sleep(0.002)
        row = torch.arange(1, 13)
        return {"input_ids": row, "labels": row}


class LoadsItself(Trainer):
    def _get_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        self.args.dataloader_num_workers = 0
        return super()._get_dataloader(*args, **kwargs)


class LooksAtItsLoader(Trainer):
    def get_train_dataloader(self) -> Any:
        return super().get_train_dataloader()


def trainer_of(
    folder: Path, cls: type[Trainer] = Trainer, *, settings: dict[str, Any] | None = None, **given: Any
) -> Any:
    model = LlamaForCausalLM(
        LlamaConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=2, vocab_size=64)
    )
    row = torch.arange(1, 13)
    return cls(
        args=TrainingArguments(output_dir=str(folder), max_steps=1, use_cpu=True, report_to="none", **(settings or {})),
        data_collator=default_data_collator,
        **{"model": model, "train_dataset": [{"input_ids": row, "labels": row}] * 16, **given},
    )


def refusal_of(trainer: Any) -> str:
    refusal = facts_of(trainer, ProgramFactsJob(command=("python", "train.py"), device="cpu")).refusal
    assert refusal is not None
    return refusal


def program_of(trainer: Any) -> Program:
    program = facts_of(trainer, ProgramFactsJob(command=("python", "train.py"), device="cpu")).program
    assert program is not None
    return program


@pytest.mark.parametrize("cls", [Trainer, HandsOn], ids=lambda cls: cls.__name__)
def test_an_optimizer_that_args_optim_decides_is_searched(tmp_path: Path, cls: type[Trainer]) -> None:
    trainer = trainer_of(tmp_path, cls)
    program = program_of(trainer)
    assert "optimizer" not in program.own and program.untraced == ""
    # Trying has left nothing behind.
    assert trainer.optimizer is None and trainer.lr_scheduler is None and trainer.args.optim == "adamw_torch_fused"


@pytest.mark.parametrize("cls", [MakesItsOwn, MakesBothItself, ChoosesByItself, Fails], ids=lambda cls: cls.__name__)
def test_an_optimizer_that_the_trainer_makes_whatever_it_is_asked_stays_its_own(
    tmp_path: Path, cls: type[Trainer]
) -> None:
    trainer = trainer_of(tmp_path, cls)
    program = program_of(trainer)
    assert program.own["optimizer"] == "the program makes its own optimizer"
    assert program.untraced == "its own optimizer is not traced" and trainer.optimizer is None


def test_an_optimizer_that_is_given_stays_its_own(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, optimizer_cls_and_kwargs=(torch.optim.SGD, {"lr": 1e-3}))
    assert "optimizer" in program_of(trainer).own


def test_checkpointing_of_the_programs_own_takes_no_options(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    facts = facts_of(trainer, ProgramFactsJob(command=("python", "train.py"), device="cpu"))
    assert facts.model is not None and facts.model.checkpointing_options

    def enable(self: Any, activation_checkpointing_kwargs: Any = None) -> None:
        pass

    trainer.model.activation_checkpointing_enable = MethodType(enable, trainer.model)
    facts = facts_of(trainer, ProgramFactsJob(command=("python", "train.py"), device="cpu"))
    assert facts.model is not None and not facts.model.checkpointing_options


def test_loader_workers_are_searched_where_loading_takes_time(tmp_path: Path) -> None:
    assert program_of(trainer_of(tmp_path)).loads_quickly
    for cls in (Trainer, LooksAtItsLoader):
        program = program_of(trainer_of(tmp_path, cls, train_dataset=SlowSamples()))
        assert "loader" not in program.own and not program.loads_quickly


def test_a_loader_that_the_trainer_makes_itself_stays_its_own(tmp_path: Path) -> None:
    program = program_of(trainer_of(tmp_path, LoadsItself, train_dataset=SlowSamples()))
    assert program.own["loader"] == "LoadsItself makes its own loader"


class LoadsFourAtOnce(Trainer):
    def get_train_dataloader(self) -> Any:
        assert self.train_dataset is not None and self.data_collator is not None
        return torch.utils.data.DataLoader(self.train_dataset, batch_size=4, collate_fn=self.data_collator)


class Stream(torch.utils.data.IterableDataset[Any]):
    def __iter__(self) -> Any:
        row = torch.arange(1, 13)
        return iter([{"input_ids": row, "labels": row}] * 3)


class Batches(torch.utils.data.IterableDataset[Any]):
    def __iter__(self) -> Any:
        rows = torch.ones(2, 12, dtype=torch.long)
        return iter([{"input_ids": rows, "labels": rows}] * 16)


class LoadsBatches(Trainer):
    def get_train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(Batches(), batch_size=None)


def test_a_loader_of_another_batch_size_than_the_arguments_is_refused(tmp_path: Path) -> None:
    assert "gives 4 samples at once" in refusal_of(trainer_of(tmp_path, LoadsFourAtOnce))
    agrees = trainer_of(tmp_path, LoadsFourAtOnce, settings={"per_device_train_batch_size": 4})
    assert program_of(agrees).micro_batch_size == 4
    assert "stream decides which samples" in refusal_of(trainer_of(tmp_path, LoadsBatches))


def test_a_trainer_that_generates_in_blocks_is_refused(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    trainer.args.num_generations = 4
    assert "num_generations" in refusal_of(trainer)


def test_too_few_samples_are_said_with_what_gave_them(tmp_path: Path) -> None:
    assert "stream gave 3 samples in 30 s" in refusal_of(trainer_of(tmp_path, train_dataset=Stream()))
    row = torch.arange(1, 13)
    few = trainer_of(tmp_path, train_dataset=[{"input_ids": row, "labels": row}])
    assert "data has 1 sample, fewer than one effective batch of 8" in refusal_of(few)


def test_a_model_that_is_made_as_the_training_begins_keeps_its_attention(tmp_path: Path) -> None:
    model = trainer_of(tmp_path).model
    made = trainer_of(tmp_path, model=None, model_init=lambda: model)
    assert "attention" in program_of(made).own and "activation_checkpointing" not in program_of(made).own
    model.activation_checkpointing_enable()
    assert "model_init" in program_of(made).own["activation_checkpointing"]


def test_a_training_that_goes_on_from_a_checkpoint_keeps_its_optimizer(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    setattr(trainer, RESUMES, True)
    assert "checkpoint" in program_of(trainer).own["optimizer"]


class LeavesItemsUnused(Trainer):
    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        return model(**inputs).loss


def test_a_loss_whose_gradient_depends_on_the_split_keeps_it(tmp_path: Path) -> None:
    assert "num_items_in_batch" in program_of(trainer_of(tmp_path, LeavesItemsUnused)).own["micro_batch_size"]
    assert "micro_batch_size" not in program_of(trainer_of(tmp_path, HandsOn)).own


def test_files_of_the_command_and_launchers_settings_make_another_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "sft.yaml"
    config.write_text("loss_type: nll")
    command = ("trl", "sft", f"--config={config}")
    first = own_code(command)
    assert own_code(command) == first
    config.write_text("loss_type: dft")
    second = own_code(command)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert len({first, second, own_code(command)}) == 3


def test_a_precision_that_the_launcher_asked_for_is_the_programs_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = program_of(trainer_of(tmp_path))
    assert plain.settings["bf16"] is False and "precision" not in plain.own and not plain.half_precision
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    launched = program_of(trainer_of(tmp_path))
    assert launched.settings["bf16"] is True and "launcher" in launched.own["precision"] and launched.half_precision


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"BACKEND": "INDUCTOR", "MODE": "default"}, True),
        ({"BACKEND": "AOT_EAGER"}, "aot_eager"),
        ({"BACKEND": "INDUCTOR", "MODE": "max-autotune", "USE_REGIONAL_COMPILATION": "True"}, "max-autotune, regional"),
        ({"BACKEND": "NO", "MODE": "default"}, False),
    ],
)
def test_compiling_that_the_launcher_asked_for_is_the_programs_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], said: bool | str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"ACCELERATE_DYNAMO_{name}", value)
    program = program_of(trainer_of(tmp_path))
    assert program.settings["torch_compile"] == said and ("launcher" in program.own.get("compile", "")) is bool(said)
    assert bool(program.untraced) is isinstance(said, str)


def test_a_mode_of_compiling_that_no_choice_has_is_the_programs_own(tmp_path: Path) -> None:
    program = program_of(
        trainer_of(tmp_path, settings={"torch_compile": True, "torch_compile_mode": "reduce-overhead"})
    )
    assert program.settings["torch_compile"] == "reduce-overhead" and "backend or mode" in program.own["compile"]
    assert program_of(trainer_of(tmp_path, settings={"torch_compile": True})).settings["torch_compile"] is True


@pytest.mark.parametrize("checkpoints", [False, True])
def test_what_fsdp_does_is_read_from_accelerate_whoever_asked_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoints: bool
) -> None:
    trainer = trainer_of(tmp_path)
    assert program_of(trainer).settings["fsdp"] is False
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, cpu_offload=True, activation_checkpointing=checkpoints)
    monkeypatch.setitem(trainer.accelerator.state.__dict__, "fsdp_plugin", plugin)
    trainer.is_fsdp_enabled = True
    program = program_of(trainer)
    assert program.settings["fsdp_config"] == {"version": 2, "reshard_after_forward": True, "cpu_offload": True}
    assert program.settings["activation_checkpointing"] is checkpoints
    assert ("activation_checkpointing" in program.own) is checkpoints
    assert program.own["parallelism"] == "the program or its launcher asks for FSDP" and program.untraced


class OnTwoCards:
    """A Trainer's arguments in one of two processes with a GPU each: there are no GPUs here."""

    def __init__(self, arguments: TrainingArguments, **changes: Any) -> None:
        self._arguments = arguments
        self.world_size, self.device = 2, torch.device("cuda")
        vars(self).update(changes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._arguments, name)


def test_fsdp_is_tried_where_it_would_be_the_same_training(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    trainer.args = OnTwoCards(trainer.args)
    assert own_sharing(trainer) == {}
    trainer.accelerator.state._mixed_precision = "bf16"
    assert own_sharing(trainer) == {}
    trainer.model.to(torch.bfloat16)
    assert "in float32" in own_sharing(trainer)["parallelism"]
    trainer.accelerator.state._mixed_precision = "no"
    assert own_sharing(trainer) == {}
    trainer.model.quantization_method = "bitsandbytes"
    assert "quantized" in own_sharing(trainer)["parallelism"]
    trainer.args.fsdp_config = {"version": 1}
    assert "settings of FSDP" in own_sharing(trainer)["parallelism"]
    trainer.args = OnTwoCards(trainer.args, device=torch.device("cpu"))
    assert "GPUs alone" in own_sharing(trainer)["parallelism"]
