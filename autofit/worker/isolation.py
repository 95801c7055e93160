"""Isolation of samples that share a row, checked with the very model and collator of a trial.

Where an attention, a mask or a model's own layers ignore the documents' ends, training runs, fast, on
samples that see each other. Nothing fails then, so it is looked for.
"""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import torch

LENGTHS, LONG_LENGTHS = (7, 5), (90, 70)
"""Tokens of the two samples, the longer first, as it is packed. The long ones are taken where the data has such:
flex_attention has other kernels for fewer than 128 tokens together."""
TOLERANCE = 1e-3
"""Largest difference of a logit over the largest logit. The two runs have the same shapes, so it is 0 but for
kernels that add up in no fixed order; a fresh model that leaks differs by percents."""


def leak_between_samples(model: Any, collator: Any, samples: Any, context: Any) -> str | None:
    """A sentence where a sample's logits depend on the sample before it in its row; None where they do not.

    Two short samples share a row, twice, the first one with other tokens the second time: the logits of the
    second sample must stay as they are. In evaluation mode, without gradients, under the trial's own
    autocast ``context``.
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
            before, after = (_second_logits(model, collator, [each, second], lengths) for each in (first, other))
    finally:
        model.train(was_training)
    difference = float((before - after).abs().max() / before.abs().max())
    if difference <= TOLERANCE:
        return None
    return f"samples that share a row see each other: a sample's logits move by {difference:.1%} with its neighbour's"


def autocast_of(arguments: Any) -> Any:
    """The context that the Trainer wraps a forward pass in, as a function that makes it."""
    dtype = torch.bfloat16 if arguments.bf16 else torch.float16 if arguments.fp16 else None
    if dtype is None:
        return contextlib.nullcontext
    return lambda: torch.autocast(arguments.device.type, dtype)


def _second_logits(
    model: Any, collator: Any, pair: list[dict[str, torch.Tensor]], lengths: tuple[int, int]
) -> torch.Tensor:
    """Logits of the second of two samples that share a row, of shape (tokens, vocabulary), in float32."""
    device = next(model.parameters()).device
    batch = {key: value.to(device) if torch.is_tensor(value) else value for key, value in collator(pair).items()}
    assert batch["input_ids"].shape == (1, sum(lengths)), "the two samples must share a row"
    logits: torch.Tensor = model(**{**batch, "labels": None}, use_cache=False).logits
    return logits[0, lengths[0] :].float()
