"""Settings put into a program that is there: only what differs, in its own style, and never by guessing."""

from __future__ import annotations

import ast
import contextlib
from pathlib import Path
from typing import Any

import pytest

from autofit.errors import UserError
from autofit.export.into import edited
from autofit.study.result import Result
from tests.doubles import CHECKPOINTING, make_trial
from tests.export.test_formats import result_with
from tests.export.test_program_settings import program_result
from tests.export.test_training_arguments import make_result

SCRIPT = """\
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

NAME = "größe/llama"  # letters of two bytes stand before what is changed
tokenizer = AutoTokenizer.from_pretrained(NAME)
model = AutoModelForCausalLM.from_pretrained(NAME, torch_dtype="bfloat16")

arguments = TrainingArguments(
    output_dir="out",  # mine
    learning_rate=2e-5,
    per_device_train_batch_size=4,
    gradient_checkpointing=True,
    gradient_checkpointing_kwargs={"use_reentrant": True},
    bf16=BF16,
    group_by_length_is_mine=None,
)
"""


def keywords_of(text: str, name: str) -> dict[str, Any]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(name):
            return {keyword.arg or "**": keyword.value for keyword in node.keywords}
    raise AssertionError(name)


def literals_of(text: str, name: str) -> dict[str, Any]:
    """The keyword arguments that are plain values."""
    literals = {}
    for key, value in keywords_of(text, name).items():
        with contextlib.suppress(ValueError):
            literals[key] = ast.literal_eval(value)
    return literals


@pytest.mark.parametrize(("way", "first", "said"), [("zero3", 0, True), ("zero3", 1, False), ("zero2", 0, False)])
def test_a_model_that_zero_3_would_not_cut_is_told_of(way: str, first: int, said: bool, tmp_path: Path) -> None:
    lines = ["model = AutoModelForCausalLM.from_pretrained(NAME)", 'arguments = TrainingArguments("out")']
    path = script(tmp_path, "\n".join([lines[first], lines[1 - first], ""]))
    left_out = edited(result_with(parallelism=way, precision="bf16"), path).left_out
    assert any("before the model is loaded" in each for each in left_out) is said


def script(tmp_path: Path, text: str = SCRIPT) -> Path:
    path = tmp_path / "train.py"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_recommended_argument_is_set_and_a_knob_that_is_not_recommended_is_neutral(tmp_path: Path) -> None:
    result = result_with(precision="fp32", attention="eager")
    after = edited(result, script(tmp_path)).after
    assert result.recommendation is not None
    arguments = literals_of(after, "TrainingArguments")
    for name, value in result.recommendation.training_arguments.items():
        assert arguments[name] == value
    assert arguments["gradient_checkpointing"] is False and arguments["gradient_checkpointing_kwargs"] is None
    assert arguments["bf16"] is False
    model = literals_of(after, "ForCausalLM.from_pretrained")
    assert model == {"torch_dtype": "float32", "attn_implementation": "eager"}


def test_an_older_name_keeps_its_name_and_gets_the_value(tmp_path: Path) -> None:
    result = result_with(activation_checkpointing="every_layer", precision="bf16")
    arguments = literals_of(edited(result, script(tmp_path)).after, "TrainingArguments")
    assert arguments["gradient_checkpointing"] is True
    assert arguments["gradient_checkpointing_kwargs"] == {"use_reentrant": False}
    assert arguments["bf16"] is True and CHECKPOINTING not in arguments


def test_what_is_yours_is_left_as_it_is_to_the_letter(tmp_path: Path) -> None:
    change = edited(result_with(), script(tmp_path))
    untouched = [line for line in SCRIPT.splitlines() if "mine" in line or "learning_rate" in line or "import" in line]
    assert all(line in change.after.splitlines() for line in untouched)
    assert "größe" in change.after and "AutoTokenizer.from_pretrained(NAME)" in change.after
    added = [line for line in change.diff.splitlines() if line.startswith("+    ")]
    assert added and all(line.endswith(",") for line in added), "one argument a line, as the call is written"


def test_an_argument_that_has_the_value_is_not_touched_and_twice_is_as_once(tmp_path: Path) -> None:
    result = result_with()
    once = edited(result, script(tmp_path)).after
    again = edited(result, script(tmp_path, once))
    assert again.after == once and again.diff == ""


@pytest.mark.parametrize("call", ['TrainingArguments("out")', "TrainingArguments()", "trl.SFTConfig(output_dir='o')"])
def test_a_call_on_one_line_stays_on_it(call: str, tmp_path: Path) -> None:
    change = edited(result_with(), script(tmp_path, f"a = {call}\n"))
    assert change.after.count("\n") == 1 and "per_device_train_batch_size=8" in change.after
    assert any("from_pretrained" in each for each in change.left_out), "there is no model to load in this file"
    ast.parse(change.after)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x = 1\n", "no call of TrainingArguments"),
        ("a = TrainingArguments('o')\nb = SFTConfig('o')\n", r"several calls of TrainingArguments \(lines 1, 2\)"),
        ("a = TrainingArguments(**settings)\n", "takes its arguments from elsewhere"),
        ("a = (\n", "is not Python"),
    ],
)
def test_a_program_whose_arguments_cannot_be_found_is_refused_with_the_way_out(
    text: str, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=reason):
        edited(result_with(), script(tmp_path, text))
    with pytest.raises(UserError, match="cannot be read"):
        edited(result_with(), tmp_path / "nothing.py")


def test_what_has_no_place_in_the_calls_is_said(tmp_path: Path) -> None:
    adapters = edited(result_with(method="qlora", precision="bf16"), script(tmp_path))
    said = "; ".join(adapters.left_out)
    assert "LoraConfig(" in said and "BitsAndBytesConfig(" in said and "data collator" in said
    flattened = edited(result_with(attention="torch_varlen", batch_layout="flattened"), script(tmp_path))
    assert any("torch_varlen" in each for each in flattened.left_out)
    assert "torch_varlen" not in flattened.after


def test_a_model_of_another_task_than_the_measured_one_is_named(tmp_path: Path) -> None:
    def other(name: str) -> str:
        path = script(tmp_path, SCRIPT.replace("AutoModelForCausalLM.", f"{name}."))
        return edited(make_result(make_trial()), path).other_model

    assert other("AutoModelForSequenceClassification") == "AutoModelForSequenceClassification"
    for name in ("BertForMaskedLM", "AutoModelForQuestionAnswering", "Wav2Vec2ForCTC", "T5ForQuestionAnswering"):
        assert other(name) == name
    for name in ("AutoModelForCausalLM", "transformers.LlamaForCausalLM", "AutoPeftModelForCausalLM", "MyModel"):
        assert other(name) == ""
    for name in ("RoFormerForCausalLM", "GPT2LMHeadModel", "Gemma3ForConditionalGeneration", "RoFormerModel"):
        assert other(name) == ""


def test_the_program_that_was_measured_is_never_said_to_load_another_model(tmp_path: Path) -> None:
    path = script(tmp_path, SCRIPT.replace("AutoModelForCausalLM.", "BertForMaskedLM."))
    assert edited(program_result(make_trial()), path).other_model == ""


def test_of_a_program_of_ones_own_only_its_settings_are_changed(tmp_path: Path) -> None:
    mine = "torch_compile=True, dataloader_num_workers=2"
    batch = "per_device_train_batch_size=8, gradient_accumulation_steps=4"
    text = f"a = TrainingArguments('o', {batch}, bf16=True, {mine})\n"
    change = edited(program_result(), script(tmp_path, text))
    arguments = literals_of(change.after, "TrainingArguments")
    assert arguments["per_device_train_batch_size"] * arguments["gradient_accumulation_steps"] == 32
    assert arguments["bf16"] is False and mine in change.after
    assert not any("LoraConfig" in each or "collator" in each for each in change.left_out)


def test_nothing_measured_is_nothing_to_put_in(tmp_path: Path) -> None:
    from autofit.study.outcome import Outcome

    failed: Result = make_result(make_trial(outcome=Outcome.OOM))
    with pytest.raises(UserError, match="no measured configuration"):
        edited(failed, script(tmp_path))


def test_a_loader_that_the_search_did_not_touch_keeps_its_workers(tmp_path: Path) -> None:
    text = "a = TrainingArguments('o', dataloader_num_workers=4, dataloader_prefetch_factor=2)\n"
    assert (
        "dataloader_num_workers=4, dataloader_prefetch_factor=2" in edited(result_with(), script(tmp_path, text)).after
    )


@pytest.mark.parametrize(
    "call",
    [
        'TrainingArguments(output_dir=("o"))',
        'TrainingArguments(("o"))',
        'TrainingArguments("o",)',
        'TrainingArguments(\n    run_name=(\n        "a"\n        "b"\n    ),  # (mine\n)',
        'TrainingArguments(\n\toutput_dir=f("o", (1, 2)),\n\tlearning_rate=1e-5\n\t# the end\n)',
        'TrainingArguments(\r\n    "o",\r\n)\r\n',
    ],
)
def test_parentheses_commas_comments_and_line_ends_of_a_call_stay_as_they_are(call: str, tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_bytes(f"a = {call}".encode())
    change = edited(result_with(), path)
    tree = ast.parse(change.after)
    assert literals_of(change.after, "TrainingArguments")["per_device_train_batch_size"] == 8
    assert ast.dump(tree) != ast.dump(ast.parse(change.before))
    assert [line for line in change.before.splitlines() if "#" in line] == [
        line for line in change.after.splitlines() if "#" in line
    ]
    assert change.after.count("\n") == change.after.count("\r\n") or "\r\n" not in call
    assert len(ast.unparse(tree).splitlines()) == 1


@pytest.mark.parametrize(("start", "encoding"), [(b"\xef\xbb\xbf", "utf-8"), (b"# coding: latin-1\n", "latin-1")])
def test_a_file_keeps_its_encoding(start: bytes, encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_bytes(start + "NAME = 'größe'\na = TrainingArguments('o')\n".encode(encoding))
    content = edited(result_with(), path).content
    assert content.startswith(start) and "'größe'".encode(encoding) in content and b"optim=" in content


def test_what_trl_switches_on_by_itself_is_switched_off_where_it_was_not_measured(tmp_path: Path) -> None:
    plain = "a = SFTConfig('o', packing=True, max_length=64)\n"
    arguments = literals_of(edited(result_with(precision="fp32"), script(tmp_path, plain)).after, "SFTConfig")
    assert arguments["bf16"] is False and arguments["gradient_checkpointing"] is False
    assert arguments["packing"] is False and arguments["max_length"] == 64
    mixed = result_with(precision="bf16", activation_checkpointing="every_layer")
    arguments = literals_of(edited(mixed, script(tmp_path, "a = SFTConfig('o')\n")).after, "SFTConfig")
    assert arguments["bf16"] is True and arguments[CHECKPOINTING] is True
    assert "gradient_checkpointing" not in arguments
