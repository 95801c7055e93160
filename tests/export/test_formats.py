"""Exported files, read by the libraries they are for: each understands what the recommendation says, or the file says
what it leaves out."""

from __future__ import annotations

import ast
import contextlib
import csv
import dataclasses
import io
import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from autofit.errors import UserError
from autofit.export import (
    BY_SUFFIX,
    EXPORTERS,
    OF_CAUSAL_MODELS,
    check_exports,
    parse_export,
    parse_exports,
    write_export,
)
from autofit.export.exported import Exported
from autofit.export.trl import _targets
from autofit.job.lengths import SampleLengths
from autofit.knobs import KNOBS
from autofit.knobs.numerics import Numerics
from autofit.knobs.parallelism import is_zero
from autofit.study.outcome import Outcome
from autofit.study.result import Result
from tests.doubles import CHECKPOINTING, make_trial
from tests.export.test_program_settings import program_result
from tests.export.test_training_arguments import VERSES, make_result

VALUES = [(row.name, choice.value) for row in KNOBS if not row.is_of_programs for choice in row.choices]
TRAINERS = ("trl", "trl-python", "axolotl", "llama-factory", "ms-swift", "unsloth")
NEEDS_CUDA = ("tf32",)
"""Arguments whose values transformers itself refuses where there is no CUDA."""


def result_with(method: str = "full", lengths: SampleLengths = VERSES, **values: Any) -> Result:
    return make_result(make_trial(**values), method=method, lengths=lengths)


def skip_without_deepspeed(value: str) -> None:
    if is_zero(value) and not find_spec("deepspeed"):
        pytest.skip("TrainingArguments ask for DeepSpeed, which is not installed: make export-check has it")


def document_of(exported: Exported) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(exported.text)
    return document


def check_arguments(understood: Any, result: Result, exported: Exported) -> None:
    """Every argument of the recommendation is what the library's own object has, or is said to be left out."""
    assert result.recommendation is not None
    for name, value in result.recommendation.training_arguments.items():
        if name not in NEEDS_CUDA and not any(each.startswith(f"{name}=") for each in exported.left_out):
            found = getattr(understood, name)
            if name == "fsdp_config":  # TrainingArguments adds what is XLA's to it
                found = {key: found.get(key) for key in value}
            assert found == value, name


@pytest.mark.parametrize(("knob", "value"), VALUES, ids=str)
def test_yaml_is_what_hf_argument_parser_reads(knob: str, value: str, tmp_path: Path) -> None:
    from transformers import HfArgumentParser, TrainingArguments

    skip_without_deepspeed(value)
    result = result_with(**{knob: value})
    exported = EXPORTERS["yaml"](result)
    document = {name: each for name, each in document_of(exported).items() if name not in NEEDS_CUDA}
    path = tmp_path / "arguments.yaml"
    path.write_text(yaml.safe_dump({**document, "output_dir": str(tmp_path), "use_cpu": True}))
    (arguments,) = HfArgumentParser(TrainingArguments).parse_yaml_file(str(path))
    check_arguments(arguments, result, exported)
    assert any("from_pretrained" in each for each in exported.left_out)


@pytest.fixture(scope="module")
def trl_parser() -> Any:
    """The parser that ``trl sft`` reads its file with."""
    from trl.scripts.sft import make_parser

    return make_parser(prog="trl sft")


@pytest.mark.parametrize(("knob", "value"), VALUES, ids=str)
def test_trl_understands_every_value_or_the_file_says_that_it_is_left_out(
    knob: str, value: str, tmp_path: Path, trl_parser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_without_deepspeed(value)
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "")  # the file's own variables are undone after the test
    result = result_with(**{knob: value})
    exported = EXPORTERS["trl"](result)
    document = {name: each for name, each in document_of(exported).items() if name not in NEEDS_CUDA}
    assert document.pop("num_processes") == 1, "it goes to accelerate launch"
    document.pop("gpu_ids", None)
    path = tmp_path / "sft.yaml"
    path.write_text(yaml.safe_dump({**document, "output_dir": str(tmp_path), "use_cpu": True}))
    _, sft, model, _ = trl_parser.parse_args_and_config(["--config", str(path)])
    check_arguments(sft, result, exported)
    assert result.recommendation is not None
    asked = result.recommendation.training_arguments
    for name in ("bf16", "fp16", CHECKPOINTING):
        assert getattr(sft, name) is bool(asked.get(name, False)), f"{name} is TRL's own default"
    kwargs = result.recommendation.model_kwargs
    assert model.dtype == kwargs["dtype"]
    if not any("attn_implementation" in each for each in exported.left_out):
        assert model.attn_implementation == kwargs["attn_implementation"]


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_trl_understands_adapters(
    method: str, tmp_path: Path, trl_parser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = result_with(method=method)
    path = tmp_path / "sft.yaml"
    document = document_of(EXPORTERS["trl"](result))
    del document["num_processes"]
    path.write_text(yaml.safe_dump({**document, "output_dir": str(tmp_path), "use_cpu": True}))
    _, _, model, _ = trl_parser.parse_args_and_config(["--config", str(path)])
    assert result.recommendation is not None and result.recommendation.adapter is not None
    adapter = result.recommendation.adapter
    assert model.use_peft and (model.lora_r, model.lora_alpha) == (adapter["r"], adapter["lora_alpha"])
    assert model.load_in_4bit is (method == "qlora")
    assert model.lora_target_modules in (adapter["target_modules"], [adapter["target_modules"]])
    assert any("float32" in each for each in EXPORTERS["trl"](result).left_out) is (method == "qlora")


def test_the_file_says_what_trl_does_otherwise_with_adapters_under_zero_3() -> None:
    def said(**values: str) -> str:
        result = result_with(method="lora", precision="bf16", **values)
        return " ".join(EXPORTERS["trl"](result).left_out)

    plain = said(parallelism="zero3")
    assert "adapters in float32" in plain and "use_reentrant" not in plain
    assert "use_reentrant=False" in said(parallelism="zero3", activation_checkpointing="every_layer")
    assert "adapters" not in said(parallelism="zero2") and "adapters" not in said(parallelism="fsdp2")


def test_deepspeeds_file_has_the_stage_that_was_measured_and_none_where_none_was() -> None:
    stages = {}
    for way in ("ddp", "zero2", "zero3_offload"):
        exported = EXPORTERS["deepspeed"](result_with(parallelism=way))
        document = document_of(exported)
        stages[way] = document["zero_optimization"]["stage"]
        assert any("measured engine" in each for each in exported.left_out) is (way == "ddp")
        assert document["train_batch_size"] == 32 and document["gradient_accumulation_steps"] != "auto"
    assert stages == {"ddp": 0, "zero2": 2, "zero3_offload": 3}


@pytest.mark.parametrize("name", list(EXPORTERS))
def test_a_format_that_holds_no_result_of_a_search_is_refused_before_it(name: str) -> None:
    for result in (make_result(make_trial(), task="masked-lm"), program_result()):
        refused = name in OF_CAUSAL_MODELS
        with pytest.raises(UserError, match=re.escape(name)) if refused else contextlib.nullcontext():
            check_exports([(name, Path("file"))], result.situation)
        with pytest.raises(UserError) if refused else contextlib.nullcontext():
            EXPORTERS[name](result)
    check_exports([(name, Path("file"))], make_result(make_trial()).situation)


def test_a_single_lora_target_becomes_a_pattern_of_whole_names_as_peft_reads_one() -> None:
    assert _targets(["q_proj"]) == [r".*\.q_proj"] and _targets(["q_proj", "v_proj"]) == ["q_proj", "v_proj"]
    assert re.fullmatch(_targets(["q_proj"])[0], "model.layers.0.self_attn.q_proj")


def test_trl_takes_padding_free_rows_without_a_length_to_cut_at(
    tmp_path: Path, trl_parser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = make_trial(attention="flash_attention_2", batch_layout="flattened", precision="bf16")
    exported = EXPORTERS["trl"](make_result(trial, lengths=VERSES))
    document = document_of(exported)
    assert document["padding_free"] is True and document["max_length"] is None
    assert "Samples must have at most" in exported.text
    as_python = EXPORTERS["trl-python"](make_result(trial, lengths=VERSES)).text
    assert "Samples must have at most" in as_python
    for attention in ("flash_attention_4", "torch_varlen"):
        other = EXPORTERS["trl"](make_result(make_trial(attention=attention, batch_layout="flattened"), lengths=VERSES))
        assert document_of(other)["padding_free"] is False
        assert any("flattened" in each for each in other.left_out)


def test_older_transformers_get_the_older_name_of_checkpointing() -> None:
    result = make_result(make_trial(), lengths=VERSES)
    fields = result.situation.libraries.training_argument_fields
    libraries = dataclasses.replace(
        result.situation.libraries,
        training_argument_fields=fields - {"activation_checkpointing"} | {"gradient_checkpointing"},
    )
    older = dataclasses.replace(result, situation=dataclasses.replace(result.situation, libraries=libraries))
    document = document_of(EXPORTERS["trl"](older))
    assert document["gradient_checkpointing"] is False and "activation_checkpointing" not in document


@pytest.mark.parametrize("name", TRAINERS)
def test_what_a_trainer_cannot_express_is_said_in_the_file_and_to_whoever_exports(name: str) -> None:
    plain = EXPORTERS[name](result_with(attention="eager", batch_layout="dynamic_padding"))
    flattened = EXPORTERS[name](result_with(attention="torch_varlen", batch_layout="flattened"))
    if name != "unsloth":  # it leaves attention out, whichever was measured
        assert any("torch_varlen" in each for each in flattened.left_out)
    assert "NOT THE MEASURED CONFIGURATION" in flattened.text
    assert not any("attn_implementation" in each for each in plain.left_out)
    packed = EXPORTERS[name](result_with(batch_layout="packed"))
    assert any("rows" in each for each in packed.left_out)
    assert ("NOT THE MEASURED CONFIGURATION" in plain.text) == bool(plain.left_out)


@pytest.mark.parametrize("name", TRAINERS)
def test_a_trainer_of_language_models_is_not_given_another_task(name: str) -> None:
    images = make_result(make_trial(), task="image-classification", lengths=SampleLengths.fixed(1))
    with pytest.raises(UserError, match="causal language models"):
        EXPORTERS[name](images)


@pytest.mark.parametrize("name", EXPORTERS)
def test_every_file_says_how_it_was_measured_or_refuses(name: str) -> None:
    failed = make_result(make_trial(seconds=None, outcome=Outcome.OOM, reason="no memory"))
    if name not in ("json", "csv"):
        with pytest.raises(UserError, match="no measured configuration"):
            EXPORTERS[name](failed)
    text = EXPORTERS[name](make_result(make_trial())).text
    assert name == "csv" or ("1.00 s" in text or '"step_seconds": 1.0' in text)
    assert "@" not in text


def test_csv_has_a_line_for_every_trial_with_its_knobs_and_figures() -> None:
    trials = (make_trial(0, seconds=2.0), make_trial(1, seconds=None, outcome=Outcome.OOM, reason="no, memory"))
    rows = list(csv.DictReader(io.StringIO(EXPORTERS["csv"](make_result(*trials)).text)))
    assert [row["outcome"] for row in rows] == ["ok", "oom"]
    assert float(rows[0]["step_seconds"]) == pytest.approx(2.0) and rows[1]["step_seconds"] == ""
    assert rows[0]["attention"] == "sdpa" and rows[1]["reason"] == "no, memory"


def test_markdown_has_the_table_the_code_and_the_reasons() -> None:
    reference = make_trial(0, seconds=2.0, number_of_round=0)
    faster = make_trial(1, seconds=1.0, number_of_round=0, attention="eager")
    text = EXPORTERS["markdown"](make_result(reference, faster)).text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1 and len(table) == 4
    assert "**2.00x**" in table[2] and "```python" in text and "\n* " in text


@pytest.mark.parametrize(
    ("path", "format_name"), [("out.py", "training-arguments"), ("out.yml", "yaml"), ("t.csv", "csv")]
)
def test_the_suffix_says_the_format_where_none_is_named(path: str, format_name: str, tmp_path: Path) -> None:
    assert parse_export(str(tmp_path / path)) == (format_name, tmp_path / path)
    with pytest.raises(UserError, match=r"does not say in which format: write FORMAT=.*out\.txt"):
        parse_export(str(tmp_path / "out.txt"))
    with pytest.raises(UserError, match=r"no export format 'axolot'\. Did you mean axolotl\?"):
        parse_export(f"axolot={tmp_path / 'axo.yaml'}")


def test_a_suffix_of_other_formats_is_refused_and_one_of_none_is_taken(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^slurm writes no \.py file: write slurm=.*run\.sh, or training-arguments=.*py\.$"
    ):
        parse_export(f"slurm={tmp_path / 'run.py'}")
    with pytest.raises(
        UserError, match=r"^training-arguments writes no \.json file: .*args\.py, or json=.*args\.json\.$"
    ):
        parse_export(f"training-arguments={tmp_path / 'args.json'}")
    for text in ("slurm=run.sbatch", "axolotl=a.yml", "unsloth=a.yaml", "csv=table"):
        name, _, path = text.partition("=")
        assert parse_export(f"{name}={tmp_path / path}") == (name, tmp_path / path)


def test_files_are_in_the_language_of_their_formats_suffixes() -> None:
    readers = {".py": ast.parse, ".yaml": yaml.safe_load, ".yml": yaml.safe_load, ".json": json.loads}
    for name, serialize in EXPORTERS.items():
        suffixes = [suffix for suffix, formats in BY_SUFFIX.items() if name in formats]
        assert suffixes, name
        text = serialize(make_result(make_trial(), lengths=VERSES)).text
        for suffix in suffixes:
            assert readers.get(suffix, str)(text)
    assert [name for formats in BY_SUFFIX.values() for name in formats if name not in EXPORTERS] == []


def test_standard_output_is_written_to_only_where_nothing_else_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    ((name, path),) = parse_exports(["csv=-"], takes_stdout=True)
    result = make_result(make_trial())
    write_export(result, name, path)
    assert capsys.readouterr().out == EXPORTERS["csv"](result).text
    assert not Path("-").exists()
    with pytest.raises(UserError, match=r"^Two exports would be printed into each other"):
        parse_exports(["csv=-", "json=-"], takes_stdout=True)
    with pytest.raises(
        UserError, match=r"^'csv=-': the table is printed there; 'autofit export csv=-' prints this one"
    ):
        parse_exports(["csv=-"])


def test_a_setting_that_moves_the_numbers_is_written_out_in_every_trainers_file() -> None:
    looser = {choice.value for row in KNOBS for choice in row.choices if choice.numerics is not Numerics.EXACT}
    assert "bf16" in looser
    for name in TRAINERS:
        bf16, fp32 = (EXPORTERS[name](result_with(precision=precision)) for precision in ("bf16", "fp32"))
        if name == "unsloth":
            assert any("precision" in each for each in bf16.left_out), "it has no key for it"
        elif name == "trl-python":
            assert "'bf16': True" in bf16.text and "'bf16': False" in fp32.text
        else:
            assert document_of(bf16)["bf16"] is True and document_of(fp32).get("bf16", False) is False
