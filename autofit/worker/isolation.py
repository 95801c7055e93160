"""Isolation of samples that share a row, checked with the very model and collator of a trial.

Where an attention, a mask or a model's own layers ignore the documents' ends, training runs, fast, on
samples that see each other. Nothing fails then, so it is looked for.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainerCallback

LENGTHS, LONG_LENGTHS = (7, 5), (90, 70)
"""Tokens of the two samples, the longer first, as it is packed. The long ones are taken where the data has such:
flex_attention has other kernels for fewer than 128 tokens together."""
TOLERANCE = 1e-3
"""Largest difference of a logit over the largest logit. The two runs have the same shapes, so it is 0 but for
kernels that add up in no fixed order; a fresh model that leaks differs by percents."""


def leak_between_samples(model: Any, collator: Any, samples: Any, context: Any, device: Any = "cpu") -> str | None:
    """A sentence where a sample's logits depend on the sample before it in its row; None where they do not.

    Two short samples share a row, twice, the first one with other tokens the second time: the logits of the
    second sample must stay as they are. In evaluation mode, without gradients, under the trial's own
    autocast ``context``, on the ``device`` where the model computes, wherever its parameters lie.
    """
    lengths = LONG_LENGTHS if len(samples) > max(LONG_LENGTHS) else LENGTHS
    collator = copy.copy(collator)
    if hasattr(collator, "length"):
        collator.length = max(collator.length, sum(lengths))
    first, second = (samples[length] for length in lengths)
    other = {**first, "input_ids": first["input_ids"].roll(1)}
    if torch.equal(other["input_ids"], first["input_ids"]):
        other["input_ids"] = torch.where(first["input_ids"] == 0, 1, 0)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), context():
            pairs = [[each, second] for each in (first, other)]
            before, after = (_second_logits(model, collator(pair), lengths, device) for pair in pairs)
    finally:
        model.train(was_training)
    difference = float((before - after).abs().max() / before.abs().max())
    if difference <= TOLERANCE:
        return None
    return f"samples that share a row see each other: a sample's logits move by {difference:.1%} with its neighbour's"


class SharedRowsLeakError(Exception):
    """Samples that share a row see each other; the text says by how much."""


class RowsAreApart(TrainerCallback):  # type: ignore[misc]
    """Asks ``leak`` as training begins, and ends it where there is one.

    The model is then as it trains: on its device, with what gathers its parts. Raises SharedRowsLeakError.
    """

    def __init__(self, leak: Callable[[], str | None]) -> None:
        self._leak = leak

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        sentence = self._leak()
        if sentence is not None:
            raise SharedRowsLeakError(sentence)


def autocast_of(arguments: Any) -> Any:
    """The context that the Trainer wraps a forward pass in, as a function that makes it."""
    dtype = torch.bfloat16 if arguments.bf16 else torch.float16 if arguments.fp16 else None
    if dtype is None:
        return contextlib.nullcontext
    return lambda: torch.autocast(arguments.device.type, dtype)


def _second_logits(model: Any, batch: dict[str, Any], lengths: tuple[int, int], device: Any) -> torch.Tensor:
    """Logits of the second of two samples that share a row, of shape (tokens, vocabulary), in float32."""
    batch = {key: value.to(device) if torch.is_tensor(value) else value for key, value in batch.items()}
    assert batch["input_ids"].shape == (1, sum(lengths)), "the two samples must share a row"
    logits: torch.Tensor = model(**{**batch, "labels": None}, use_cache=False).logits
    return logits[0, lengths[0] :].float()
