"""The exported file: it runs, at the micro-batch and accumulation it states, or stops with one sentence."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import msgspec
import pytest
import torch
from transformers import AutoTokenizer, Trainer

from autofit.device.device import Device
from autofit.errors import UserError
from autofit.export import EXPORTERS, parse_export, training_arguments, write_export
from autofit.export.training_arguments import launch_command
from autofit.job.lengths import SampleLengths
from autofit.study.outcome import Outcome
from autofit.study.result import Result
from autofit.study.trial import Trial
from tests.conftest import TINY_LLAMA
from tests.doubles import CHECKPOINTING, FIELDS, make_situation, make_trial
from tests.study.test_store import make_record


def make_result(
    *trials: Trial,
    model: str = "some/llama",
    task: str = "causal-lm",
    method: str = "full",
    lengths: SampleLengths | None = None,
) -> Result:
    situation = make_situation(sequence_length=32, missing={}, fields=FIELDS, task=task, method=method, lengths=lengths)
    workload = dataclasses.replace(situation.workload, model=model)
    situation = dataclasses.replace(situation, workload=workload)
    record = make_record(workload=workload, situation=situation)
    return Result(study="s", storage="sqlite://", record=record, situation=situation, trials=trials)


def serialize(result: Result) -> str:
    return training_arguments.serialize(result).text


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A tiny llama with weights and a tokenizer, as a fine-tune would start from."""
    import transformers
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    folder = tmp_path / "weights"
    keys = {name: value for name, value in TINY_LLAMA.items() if name != "model_type"}
    config = transformers.AutoConfig.for_model("llama", **keys)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    words = {word: number for number, word in enumerate(["[UNK]", "in", "the", "beginning", "was", "word"])}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(folder)
    return folder


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("exported", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_file_trains_at_the_split_it_states(weights: Path, tmp_path: Path) -> None:
    trial = make_trial(micro_batch_size=4, accumulation_steps=8, activation_checkpointing="every_layer")
    script = tmp_path / "train_args.py"
    script.write_text(serialize(make_result(trial, model=str(weights))))
    text = tmp_path / "text.txt"
    text.write_text("in the beginning was the word " * 600)
    output = tmp_path / "out"
    command = [sys.executable, str(script), "--text", str(text), "--output-dir", str(output), "--max-steps", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env={**os.environ})
    assert done.returncode == 0, done.stderr
    assert (output / "model.safetensors").exists()
    state = json.loads(sorted(output.glob("checkpoint-*/trainer_state.json"))[-1].read_text())
    assert state["global_step"] == 2 and state["train_batch_size"] == 4
    module = load(script)
    arguments = module.training_arguments(str(output))
    assert (arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps) == (4, 8)
    assert arguments.per_device_eval_batch_size == 4 and getattr(arguments, CHECKPOINTING)
    assert str(module.load_model().dtype) == "torch.float32"


ON_THE_HOST = """
import runpy, sys
import transformers.training_args
from accelerate.state import DistributedType, PartialState
# accelerate starts DeepSpeed on GPUs alone, and transformers asks them for bf16.
PartialState._prepare_backend = lambda *args, **kwargs: ("gloo", DistributedType.MULTI_CPU)
transformers.training_args.is_torch_bf16_gpu_available = lambda: True
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def with_zero_3(weights: Path) -> Result:
    """The result of a search of two processes on GPUs."""
    result = make_result(make_trial(parallelism="zero3", precision="bf16", micro_batch_size=2, accumulation_steps=2))
    situation = make_situation(
        kind="cuda", capability=(9, 0), sequence_length=32, missing={}, fields=FIELDS, processes=2, effective_batch=8
    )
    workload = dataclasses.replace(situation.workload, model=str(weights))
    situation = dataclasses.replace(situation, workload=workload)
    return dataclasses.replace(result, situation=situation, record=make_record(workload=workload, situation=situation))


def test_the_file_loads_no_whole_model_where_zero_3_is_to_cut_it(weights: Path, tmp_path: Path) -> None:
    script = tmp_path / "train_args.py"
    script.write_text(serialize(with_zero_3(weights)))
    with pytest.raises(SystemExit, match="Make training_arguments first"):
        load(script).load_model()


@pytest.mark.whole
def test_the_file_trains_with_zero_3_and_leaves_weights_that_load(
    weights: Path, tmp_path: Path, deepspeed: str
) -> None:
    script, text, output, start = (tmp_path / name for name in ("train_args.py", "text.txt", "out", "start.py"))
    script.write_text(serialize(with_zero_3(weights)))
    start.write_text(ON_THE_HOST)
    text.write_text("in the beginning was the word " * 600)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(start)]
    words = [str(script), "--text", str(text), "--output-dir", str(output), "--max-steps", "2"]
    environment = {**os.environ, "PYTHONPATH": deepspeed, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, *words], capture_output=True, text=True, timeout=300, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr[-4000:]
    state = json.loads(sorted(output.glob("checkpoint-*/trainer_state.json"))[-1].read_text())
    assert state["global_step"] == 2 and state["train_batch_size"] == 2
    from transformers import AutoModelForCausalLM

    trained, before = (AutoModelForCausalLM.from_pretrained(each, dtype="float32") for each in (output, weights))
    pairs = list(zip(trained.parameters(), before.parameters(), strict=True))
    assert all(one.shape == other.shape for one, other in pairs)
    assert any(not torch.equal(one, other) for one, other in pairs)


VERSES = SampleLengths.of([4, 9, 30, 17, 25])


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("full", {"batch_layout": "dynamic_padding"}),
        ("full", {"batch_layout": "fixed_padding"}),
        ("full", {"batch_layout": "batch_rebalance", "activation_checkpointing": "every_2nd"}),
        ("full", {"batch_layout": "group_by_length"}),
        ("full", {"batch_layout": "packed"}),
        ("full", {"batch_layout": "flattened", "attention": "torch_varlen"}),
        ("lora", {"batch_layout": "flattened", "attention": "torch_varlen", "precision": "bf16"}),
        ("qlora", {"batch_layout": "dynamic_padding", "precision": "bf16"}),
    ],
    ids=lambda value: value if isinstance(value, str) else value["batch_layout"],
)
def test_the_file_trains_in_the_layout_and_method_that_were_measured(
    method: str, changes: dict[str, str], weights: Path, tmp_path: Path
) -> None:
    trial = make_trial(micro_batch_size=8, accumulation_steps=4, **changes)
    script = tmp_path / "train_args.py"
    script.write_text(serialize(make_result(trial, model=str(weights), method=method, lengths=VERSES)))
    compile(script.read_text(), str(script), "exec")
    module = load(script)
    tokenizer = AutoTokenizer.from_pretrained(weights)
    texts = ["in the beginning was the word " * (1 + number % 4) for number in range(64)]
    samples = module.samples_of(texts, tokenizer)
    assert len(samples) == 64 and max(len(sample["input_ids"]) for sample in samples) <= 30
    model = module.load_model()
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert (trained < 100_000) == (method != "full")
    trainer = Trainer(
        model=model,
        args=module.training_arguments(str(tmp_path / "out"), max_steps=2, save_strategy="no", report_to="none"),
        train_dataset=samples,
        data_collator=module.data_collator(tokenizer),
    )
    assert trainer.train().global_step == 2


@pytest.mark.parametrize(
    "task", ["sequence-classification", "token-classification", "seq2seq-lm", "image-classification"]
)
def test_other_tasks_get_a_file_to_import_from(task: str, tmp_path: Path) -> None:
    lengths = SampleLengths.fixed(1) if task == "image-classification" else VERSES
    script = tmp_path / "train_args.py"
    script.write_text(serialize(make_result(make_trial(), task=task, lengths=lengths)))
    module = load(script)
    assert not hasattr(module, "main")
    assert module.training_arguments(str(tmp_path)).per_device_train_batch_size == 8
    batch = module.data_collator()([{"input_ids": [1, 2], "labels": 1}, {"input_ids": [3], "labels": 0}])
    assert batch["input_ids"].tolist() == [[1, 2], [3, 0]]


def test_a_causal_model_that_classifies_knows_its_padding_and_its_loss(weights: Path, tmp_path: Path) -> None:
    result = make_result(make_trial(), model=str(weights), task="sequence-classification", lengths=VERSES)
    facts = dataclasses.replace(result.situation.model, counts_items=False)
    result = dataclasses.replace(result, situation=dataclasses.replace(result.situation, model=facts))
    script = tmp_path / "train_args.py"
    script.write_text(serialize(result))
    model = load(script).load_model()
    assert model.config.pad_token_id == 0 and model.accepts_loss_kwargs is False
    batch = load(script).data_collator()([{"input_ids": [1, 2], "labels": 1}, {"input_ids": [3], "labels": 0}])
    assert model(**batch).loss.isfinite()


def test_the_library_gives_the_collator_that_was_measured() -> None:
    samples = [{"input_ids": [1, 2, 3]}, {"input_ids": [4, 5]}]
    shapes = {}
    for layout in ("dynamic_padding", "fixed_padding", "packed", "flattened"):
        best = make_result(make_trial(batch_layout=layout), lengths=VERSES).best
        shapes[layout] = tuple(best.data_collator()(samples)["input_ids"].shape)
    assert shapes == {"dynamic_padding": (2, 3), "fixed_padding": (2, 30), "packed": (1, 5), "flattened": (1, 5)}


def test_a_card_that_is_not_the_first_is_named_by_the_drivers_number() -> None:
    result = make_result(make_trial())

    def command_on(index: int) -> str:
        device = Device(kind="cuda", name="RTX 4090", memory_bytes=2**34, index=index)
        situation = dataclasses.replace(result.situation, device=device)
        return launch_command(dataclasses.replace(result, situation=situation))

    assert command_on(1) == "CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES=1 python"
    assert command_on(0) == "CUDA_VISIBLE_DEVICES=0 python"


def test_more_devices_than_were_meant_stop_it_with_one_sentence(tmp_path: Path) -> None:
    script = tmp_path / "train_args.py"
    script.write_text(serialize(make_result(make_trial())))
    module = load(script)
    arguments = module.training_arguments(str(tmp_path))

    class FourCards:
        per_device_train_batch_size = arguments.per_device_train_batch_size
        gradient_accumulation_steps = arguments.gradient_accumulation_steps
        world_size = 1
        n_gpu = 4

    with pytest.raises(SystemExit, match=r"effective batch of 128 here, not 32; launch with: CUDA_VISIBLE_DEVICES= "):
        module.check_effective_batch(FourCards())
    with pytest.raises(SystemExit, match="effective batch of 64 here, not 32; leave the batch size and the accum"):
        module.training_arguments(str(tmp_path), gradient_accumulation_steps=8)


def test_a_model_without_weights_is_said_in_one_sentence_wherever_the_file_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(TINY_LLAMA))
    made = make_result(make_trial())
    source = dataclasses.replace(made.record.model, name="model", origin="folder", path=str(folder))
    script = tmp_path / "train_args.py"
    script.write_text(serialize(dataclasses.replace(made, record=msgspec.structs.replace(made.record, model=source))))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr("sys.argv", [str(script), "--text", "verses.txt"])
    module = load(script)
    assert str(folder) == module.MODEL
    with pytest.raises(SystemExit, match="has no weights: give --model"):
        module.main()


def test_what_is_the_users_is_not_set_and_can_be_added(tmp_path: Path) -> None:
    script = tmp_path / "train_args.py"
    script.write_text(serialize(make_result(make_trial())))
    module = load(script)
    assert not {"learning_rate", "lr_scheduler_type", "seed"} & set(module.TRAINING_ARGUMENTS)
    assert module.training_arguments(str(tmp_path), learning_rate=1e-3, seed=7).learning_rate == 1e-3


@pytest.mark.parametrize(
    "trial",
    [
        make_trial(),
        make_trial(precision="bf16", optimizer="adamw_8bit"),
        make_trial(precision="pure_bf16", attention="eager", activation_checkpointing="every_layer"),
        make_trial(micro_batch_size=32, accumulation_steps=1, optimizer="adamw_torch"),
    ],
)
def test_every_kind_of_configuration_gives_arguments_that_transformers_takes(trial: Trial, tmp_path: Path) -> None:
    script = tmp_path / "train_args.py"
    script.write_text(serialize(make_result(trial)))
    arguments = load(script).training_arguments(str(tmp_path))
    assert arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps == 32


@pytest.mark.parametrize("name", ["odd 'name' \"quoted\"/model", "back\\slash", "ünï/cödé", "new\nline"])
@pytest.mark.parametrize("task", ["causal-lm", "masked-lm"])
def test_odd_names_make_no_broken_python(name: str, task: str) -> None:
    ast.parse(serialize(make_result(make_trial(), model=name, task=task)))


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome is not Outcome.OK])
def test_a_study_without_a_measurement_is_a_sentence_for_arguments_and_a_document_for_json(outcome: Outcome) -> None:
    for trials in ((), (make_trial(outcome=outcome),)):
        with pytest.raises(UserError, match="no measured configuration"):
            EXPORTERS["training-arguments"](make_result(*trials))
        document = json.loads(EXPORTERS["json"](make_result(*trials)).text)
        assert document["ranking"] == [] and document["recommendation"] is None
        assert len(document["trials"]) == len(trials)


def test_a_jsonl_file_is_read_as_its_texts_and_not_as_its_lines(tmp_path: Path) -> None:
    script = tmp_path / "train_args.py"
    script.write_text(serialize(make_result(make_trial(), lengths=VERSES)))
    module = load(script)
    data = tmp_path / "my.jsonl"
    data.write_text('{"text": "in the beginning", "answer": "word"}\n\n{"text": "was", "answer": "the"}\n')
    assert module.texts_of(data, "text") == ["in the beginning", "was"]
    assert module.texts_of(data, "answer") == ["word", "the"]
    with pytest.raises(SystemExit, match=r"plain text or \.jsonl"):
        module.texts_of(data.rename(tmp_path / "my.csv"), "text")


def test_a_model_with_code_of_its_own_is_loaded_as_one_that_is_trusted() -> None:
    result = make_result(make_trial(), lengths=VERSES)
    trusted = dataclasses.replace(result, record=msgspec.structs.replace(result.record, trust_remote_code=True))
    assert serialize(trusted).count("trust_remote_code=True") == 2
    assert "trust_remote_code" not in serialize(result)


def test_a_file_of_what_is_not_confirmed_says_so_and_one_of_what_is_does_not() -> None:
    assert "NOT CONFIRMED" in serialize(make_result(make_trial(whole=False)))
    assert "NOT CONFIRMED" not in serialize(make_result(make_trial()))


def test_a_file_that_exists_is_overwritten_with_force_only(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    path.write_text("mine")
    with pytest.raises(UserError, match="--force"):
        parse_export(f"json={path}")
    assert parse_export(f"json={path}", force=True) == ("json", path)


def test_a_link_stays_a_link_and_its_target_is_written(tmp_path: Path) -> None:
    target, link = tmp_path / "target.json", tmp_path / "link.json"
    target.write_text("old")
    target.chmod(0o600)
    link.symlink_to(target)
    write_export(make_result(make_trial()), "json", link)
    assert link.is_symlink() and json.loads(target.read_text())["format"] == 1
    assert target.stat().st_mode & 0o777 == 0o600


def test_what_is_no_regular_file_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE) as reader:
        write_export(make_result(make_trial()), "json", pipe)
        assert reader.stdout is not None and json.loads(reader.stdout.read())["format"] == 1
    assert pipe.is_fifo()
