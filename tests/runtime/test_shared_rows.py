"""Samples that share a row: the same logits as alone, in every layout and attention; leaks are found."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DataCollatorWithFlattening

from autofit.runtime import varlen_attention
from autofit.runtime.collators import PackRows, PadRight
from autofit.worker.isolation import leak_between_samples

LENGTHS = [5, 9, 3, 12, 1]
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {**SMALL, "num_key_value_heads": 2},
    "qwen3": {**SMALL, "num_key_value_heads": 2, "head_dim": 16},
    "gpt_neox": SMALL,
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 1},
    "mistral": {**SMALL, "num_key_value_heads": 2, "sliding_window": 4},
}


@pytest.fixture(scope="module", params=list(MODELS))
def model(request: pytest.FixtureRequest) -> Any:
    varlen_attention.register()
    config = AutoConfig.for_model(request.param, vocab_size=128, use_cache=False, **MODELS[request.param])
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture(scope="module")
def samples() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    drawn = [torch.randint(0, 128, (length,), generator=generator) for length in LENGTHS]
    return [{"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids} for ids in drawn]


def logits_alone(model: Any, samples: list[dict[str, torch.Tensor]]) -> list[torch.Tensor]:
    model.set_attn_implementation("eager")
    with torch.no_grad():
        return [model(input_ids=sample["input_ids"][None]).logits[0] for sample in samples]


@pytest.mark.parametrize("attention", ["eager", "sdpa", "torch_varlen"])
def test_a_flattened_batch_gives_each_sample_the_logits_it_has_alone(model: Any, samples: Any, attention: str) -> None:
    alone = torch.cat(logits_alone(model, samples))
    model.set_attn_implementation(attention)
    batch = DataCollatorWithFlattening(return_flash_attn_kwargs=True)(samples)
    with torch.no_grad():
        together = model(**{**batch, "labels": None}).logits[0]
    assert torch.allclose(together, alone, atol=2e-5)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_packed_rows_give_each_sample_the_logits_it_has_alone(model: Any, samples: Any, attention: str) -> None:
    alone = logits_alone(model, samples)
    model.set_attn_implementation(attention)
    collator = PackRows(length=14)
    with torch.no_grad():
        together = model(**{**collator(samples), "labels": None}).logits
    seen = 0
    for number, row in enumerate(collator.rows(LENGTHS)):
        start = 0
        for place in row:
            end = start + LENGTHS[place]
            assert torch.allclose(together[number, start:end], alone[place], atol=2e-5)
            start, seen = end, seen + 1
    assert seen == len(LENGTHS) and len(collator.rows(LENGTHS)) < len(LENGTHS)


@pytest.mark.parametrize("attention", ["eager", "sdpa", "torch_varlen"])
def test_gradients_flow_through_shared_rows_as_through_padded_ones(model: Any, samples: Any, attention: str) -> None:
    norms = []
    for implementation, collator in (
        ("sdpa", PadRight()),
        (attention, DataCollatorWithFlattening(return_flash_attn_kwargs=True)),
    ):
        model.set_attn_implementation(implementation)
        model.zero_grad()
        batch = collator(samples)
        model(**batch, num_items_in_batch=torch.tensor(100)).loss.backward()
        norms.append(sum(float(weight.grad.square().sum()) for weight in model.parameters() if weight.grad is not None))
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)


@pytest.mark.parametrize("longest", [20, 100])
def test_the_trials_own_check_passes_what_is_apart_and_finds_what_is_not(model: Any, longest: int) -> None:
    asked = set()

    class ByLength:
        def __len__(self) -> int:
            return longest + 1

        def __getitem__(self, length: int) -> dict[str, torch.Tensor]:
            asked.add(length)
            ids = torch.arange(length) + 3
            return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}

    class WithMaskOfOnes(DataCollatorWithFlattening):
        def __call__(self, features: Any, *args: Any, **kwargs: Any) -> Any:
            batch = super().__call__(features, *args, **kwargs)
            batch["attention_mask"] = torch.ones_like(batch["input_ids"])
            return batch

    for attention, collator, leaks in (
        ("sdpa", DataCollatorWithFlattening(), False),
        ("torch_varlen", DataCollatorWithFlattening(return_flash_attn_kwargs=True), False),
        ("sdpa", PackRows(length=12), False),
        ("sdpa", WithMaskOfOnes(), True),
    ):
        model.set_attn_implementation(attention)
        sentence = leak_between_samples(model, collator, ByLength(), contextlib.nullcontext)
        assert (sentence is not None) == leaks, (attention, collator, sentence)
    assert not model.training
    assert sum(asked) >= 128 or longest < 90, "flex_attention has another kernel for fewer tokens"


def test_varlen_attention_says_what_it_cannot_do(model: Any, samples: Any) -> None:
    model.set_attn_implementation("torch_varlen")
    with pytest.raises(ValueError, match="needs batches of DataCollatorWithFlattening"):
        model(input_ids=samples[0]["input_ids"][None])
    query = torch.zeros(1, 4, 6, 8)
    with pytest.raises(ValueError, match="neither softcap nor sinks"):
        varlen_attention.varlen_attention(
            model, query, query, query, None, cu_seq_lens_q=torch.tensor([0, 6]), softcap=5
        )


def test_padding_fills_each_key_with_what_is_ignored() -> None:
    batch = PadRight(pad_token_id=9)(
        [
            {"input_ids": [1, 2, 3], "attention_mask": [1, 1, 1], "labels": [1, 2, 3]},
            {"input_ids": [4], "attention_mask": [1], "labels": [4]},
        ]
    )
    assert batch["input_ids"].tolist() == [[1, 2, 3], [4, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[1, 2, 3], [4, -100, -100]]
    fixed = PadRight(length=5)([{"input_ids": [1, 2], "labels": 1}])
    assert fixed["input_ids"].shape == (1, 5) and fixed["labels"].tolist() == [1]


def test_packing_leaves_no_row_too_long_and_no_label_on_a_first_token() -> None:
    collator = PackRows(length=10, pad_token_id=7)
    samples = [{"input_ids": torch.full((length,), length)} for length in (6, 3, 4, 1, 10)]
    batch = collator(samples)
    assert batch["input_ids"].shape == (3, 10)
    first = batch["position_ids"] == 0
    assert (batch["labels"][first] == -100).all()
    assert int((batch["labels"] != -100).sum()) == 6 + 3 + 4 + 1 + 10 - 5
    assert int((batch["input_ids"] == 7).sum()) == 30 - 24
