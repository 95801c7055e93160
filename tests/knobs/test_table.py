"""Contract tests: they run over the whole table, so a new row is covered when it is added."""

import dataclasses

import pytest
import transformers

from autofit.knobs import KNOBS, Choice, Knob, knob, numerics_of
from autofit.knobs.numerics import Numerics
from tests.doubles import make_config, make_situation

CHOICES = [(row, choice) for row in KNOBS for choice in row.choices]
IDS = [f"{row.name}={choice.value}" for row, choice in CHOICES]


@pytest.mark.parametrize(("row", "choice"), CHOICES, ids=IDS)
def test_every_choice_sets_only_what_training_arguments_know(row: Knob, choice: Choice) -> None:
    fields = {field.name for field in dataclasses.fields(transformers.TrainingArguments)}
    older = {"activation_checkpointing", "activation_checkpointing_kwargs"}
    assert set(choice.training_arguments) <= fields | older


@pytest.mark.parametrize(("row", "choice"), CHOICES, ids=IDS)
def test_every_reason_is_a_sentence_that_names_something(row: Knob, choice: Choice) -> None:
    situations = [
        make_situation(),
        make_situation(kind="cuda", capability=(7, 0), missing={}),
        make_situation(supports_checkpointing=False, attention=("eager",), missing={"bitsandbytes": "it is missing"}),
    ]
    for situation in situations:
        reason = choice.unavailable(situation)
        assert reason is None or (len(reason.split()) > 2 and not reason.endswith("."))


@pytest.mark.parametrize("row", KNOBS, ids=lambda row: row.name)
def test_the_reference_of_every_knob_is_exact_and_can_be_had_anywhere(row: Knob) -> None:
    reference = row.choice(row.reference)
    assert reference.numerics is Numerics.EXACT
    assert reference.unavailable(make_situation()) is None


@pytest.mark.parametrize("row", KNOBS, ids=lambda row: row.name)
def test_values_are_distinct(row: Knob) -> None:
    values = [choice.value for choice in row.choices]
    assert len(set(values)) == len(values)


def test_what_a_gpu_can_do_depends_on_its_compute_capability() -> None:
    precision = knob("precision")
    old = make_situation(kind="cuda", capability=(7, 5))
    new = make_situation(kind="cuda", capability=(8, 0))
    assert "compute capability 8.0" in str(precision.choice("bf16").unavailable(old))
    assert precision.choice("fp16").unavailable(old) is None
    assert precision.choice("bf16").unavailable(new) is None and precision.choice("tf32").unavailable(new) is None


def test_paging_on_a_cpu_is_refused_as_it_would_be_the_same_as_not_paging() -> None:
    assert "paging moves" in str(knob("optimizer").choice("paged_adamw_8bit").unavailable(make_situation()))
    assert knob("optimizer").choice("paged_adamw_8bit").unavailable(make_situation(kind="cuda")) is None


def test_a_model_without_the_attention_is_a_reason() -> None:
    situation = make_situation(attention=("eager",), missing={})
    assert "do not support sdpa" in str(knob("attention").choice("sdpa").unavailable(situation))


def test_an_unknown_knob_or_value_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        knob("nonsense")
    with pytest.raises(KeyError):
        knob("attention").choice("nonsense")


def test_the_classes_of_a_configuration_name_the_loosest_first() -> None:
    assert numerics_of(dict(make_config())) == (Numerics.EXACT,)
    mixed = make_config(precision="pure_bf16", optimizer="adamw_8bit")
    assert numerics_of(dict(mixed)) == (Numerics.PURE, Numerics.QUANTIZED_STATE)


def test_flash_attention_3_is_for_ampere_to_hopper() -> None:
    choice = knob("attention").choice("flash_attention_3")
    can = []
    for capability in ((7, 5), (8, 0), (9, 0), (10, 0), (12, 0)):
        situation = make_situation(kind="cuda", capability=capability, missing={})
        model = dataclasses.replace(situation.model, attention=("flash_attention_3",))
        if choice.unavailable(dataclasses.replace(situation, model=model)) is None:
            can.append(capability)
    assert can == [(8, 0), (9, 0)]


def test_what_is_compiled_by_triton_needs_what_triton_needs() -> None:
    situation = make_situation(kind="cuda", capability=(9, 0), missing={"inductor": "triton needs a C compiler"})
    for name, value in (("kernels", "liger"), ("attention", "flex_attention"), ("optimizer", "adamw_torch_8bit")):
        choice = knob(name).choice(value)
        assert "C compiler" in (choice.unavailable(situation) or ""), value
    assert knob("attention").choice("flex_attention").is_compiled


def test_where_checkpointing_takes_no_options_it_is_all_or_nothing() -> None:
    situation = make_situation(kind="cuda", capability=(9, 0), missing={})
    model = dataclasses.replace(situation.model, checkpointing_options=False)
    situation = dataclasses.replace(situation, model=model)
    ladder = knob("activation_checkpointing")
    reasons = {choice.value: choice.unavailable(situation) for choice in ladder.choices}
    assert [value for value, reason in reasons.items() if reason is None] == ["off", "every_layer"]
    assert "takes no every_n_layers" in str(reasons["every_2nd"]) and "no offload" in str(reasons["offload"])
