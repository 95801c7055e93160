"""torchao's compiled updates ask torch's allocator for the blocks that a trace writes down."""

from __future__ import annotations

import json

import pytest
import torch

from autofit.worker.tracer.torchao_update import temporaries_of
from tests.null_gpu.conftest import NullGpu

pytestmark = pytest.mark.null_gpu

SHAPES = ((256, 640), (64, 2048), (2048, 64), (256, 256), (3000, 100), (4096,))
UPDATES = """
import json, torch
from torchao.optim import {name}
for shape in {shapes}:
    weight = torch.nn.Parameter(torch.zeros(shape, device="cuda"))
    optimizer = {name}([weight], lr=1e-3, block_size=256)
    for step in range(2):
        weight.grad = torch.zeros_like(weight)
        torch.cuda.memory._record_memory_history(context=None, max_entries=100000)
        optimizer.step()
        events = torch.cuda.memory._snapshot()["device_traces"][0]
        torch.cuda.memory._record_memory_history(enabled=None)
    print(json.dumps([event["size"] for event in events if event["action"] == "free_completed"]))
"""


@pytest.mark.parametrize(("name", "bits"), [("AdamW8bit", 8), ("AdamW4bit", 4)])
def test_an_update_takes_the_temporaries_of_its_trace(name: str, bits: int, null_gpu: NullGpu) -> None:
    said = null_gpu.python(UPDATES.format(name=name, shapes=SHAPES), CAPABILITY="8.0")
    freed = [json.loads(line) for line in said.splitlines() if line.startswith("[")]
    for shape, sizes in zip(SHAPES, freed, strict=True):
        with torch.device("meta"):
            weight = torch.empty(shape)
            expected = [each.nbytes for each in temporaries_of(weight, bits, 256)]
        # The scales and what they are found with are small.
        least = weight.numel()
        assert [size for size in sizes if size >= least] == [size for size in expected if size >= least], shape
