"""Facts that the probe reads in a model's source, against the model's behaviour."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig

from autofit.job.tasks import task_named
from autofit.runtime.collators import PadRight
from autofit.worker.build import build_model
from autofit.worker.made_up_samples import SamplesByLength
from autofit.worker.probe import counts_items
from tests.conftest import TINY_LLAMA
from tests.worker.test_workloads_on_cpu import MODELS


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("llama", "causal-lm"),
        ("llama", "sequence-classification"),
        ("gpt2", "causal-lm"),
        ("mixtral", "causal-lm"),
        ("bert", "masked-lm"),
        ("bert", "sequence-classification"),
        ("bert", "token-classification"),
        ("modernbert", "masked-lm"),
        ("modernbert", "sequence-classification"),
        ("t5", "seq2seq-lm"),
        ("vit", "image-classification"),
    ],
)
def test_whether_a_loss_counts_the_steps_items_is_read_as_it_behaves(name: str, task: str) -> None:
    config = AutoConfig.for_model(**{**TINY_LLAMA, **MODELS[name], "pad_token_id": 0})
    model = build_model(config, task_named(task), "cpu", {}, trust_remote_code=False).eval()
    samples = SamplesByLength(task_named(task), config, 16, 0)
    length = 1 if task == "image-classification" else 8
    batch = PadRight()([samples[length], samples[length]])
    with torch.no_grad():
        losses = [float(model(**batch, num_items_in_batch=torch.tensor(items)).loss) for items in (10, 20)]
    assert counts_items(model) == (losses[0] == pytest.approx(2 * losses[1], rel=0.2))
