"""Whether samples that share a row are really apart: asked of the very model and collator of a trial.

Where an attention, a mask or a model's own layers ignore the documents' ends, training runs, fast, on
samples that see each other. Nothing fails then, so it is looked for.
"""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import torch

LENGTHS = (7, 5)
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2, "float16": 5e-3}
"""Largest difference of a logit over the largest logit, by the bits that the numbers are computed in."""


def leak_between_samples(model: Any, collator: Any, samples: Any, context: Any) -> str | None:
    """A sentence where a sample's logits depend on the sample before it in its row; None where they do not.

    Compares each of two short samples collated alone with the two collated together, in evaluation mode,
    without gradients, under the trial's own autocast ``context``.
    """
    pair = [samples[length] for length in LENGTHS]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), context():
            together = _logits(model, collator, pair)
            alone = torch.cat([_logits(model, collator, [sample]) for sample in pair])
    finally:
        model.train(was_training)
    computed_in = str(together.dtype).removeprefix("torch.")
    difference = float((together.float() - alone.float()).abs().max() / alone.float().abs().max())
    if difference <= TOLERANCE.get(computed_in, TOLERANCE["bfloat16"]):
        return None
    return f"samples that share a row see each other: a sample's logits move by {difference:.1%} beside another"


def autocast_of(arguments: Any) -> Any:
    """What the Trainer wraps a forward pass in, as a function that makes the context."""
    dtype = torch.bfloat16 if arguments.bf16 else torch.float16 if arguments.fp16 else None
    if dtype is None:
        return contextlib.nullcontext
    return lambda: torch.autocast(arguments.device.type, dtype)


def _logits(model: Any, collator: Any, samples: list[dict[str, torch.Tensor]]) -> torch.Tensor:
    """Logits of shape (tokens, vocabulary), in the order of the samples; padding left out."""
    device = next(model.parameters()).device
    batch = {key: value.to(device) if torch.is_tensor(value) else value for key, value in collator(samples).items()}
    positions, tokens = batch["position_ids"], batch["input_ids"]
    logits = model(**{**batch, "labels": None}, use_cache=False).logits
    # Samples may have been put into another order, or into several rows: each is found by its length.
    found = []
    for row in range(tokens.shape[0]):
        starts = [*torch.nonzero(positions[row] == 0).flatten().tolist(), tokens.shape[1]]
        found += [logits[row, start:end] for start, end in itertools.pairwise(starts)]
    by_length = {len(each): each for each in found}
    return torch.cat([by_length[len(sample["input_ids"])] for sample in samples])
