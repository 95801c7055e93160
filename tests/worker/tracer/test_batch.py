"""Traces through a worker: made side by side, kept on the disk, and of models no machine here could hold."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from autofit.device.kinds import kind_of
from autofit.job.lengths import SampleLengths
from autofit.job.models import built_in_models, resolve_model
from autofit.job.tasks import task_of
from autofit.job.workload import Workload
from autofit.knobs.recipe import Recipe
from autofit.predict.families import traceable
from autofit.predict.micro_batches import layout_of
from autofit.predict.trace_request import TraceRequest
from autofit.trial.launcher import FreshInterpreters
from autofit.trial.traces import LOST, TraceKeeper
from autofit.trial.workshop import Workshop
from autofit.worker.batches import StepBatches
from autofit.worker.tracer.batch import trace_request

SCRIPT = Path(__file__).parents[2] / "trial" / "scripted_worker.py"


def request_for(
    name: str, *, rows: int = 2, length: int = 64, precision: str = "bf16", target: str = "cuda"
) -> TraceRequest:
    source = resolve_model(name)
    task = task_of(source.config, source.head)
    length = 1 if task.reads == "images" else length
    recipe = Recipe(
        training_arguments={"bf16": precision == "bf16", "logging_nan_inf_filter": False},
        model_kwargs={"dtype": "bfloat16" if precision == "pure_bf16" else "float32"},
        environment={},
        processes=1,
    )
    return TraceRequest(
        model=source,
        workload=Workload(
            model=name,
            model_digest=source.digest,
            task=task.name,
            lengths=SampleLengths.fixed(length),
            effective_batch=1,
        ),
        recipe=traceable(recipe, optimizer="adamw_torch_fused"),
        micro_batch=(length,) * rows,
        path="",
        target=target,
    )


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[Workshop]:
    made = Workshop(kind_of("cpu"), 0, tmp_path / "workshop", lambda sentence: None)
    yield made
    made.close()


def test_traces_are_made_by_a_worker_once_and_found_again_without_one(
    tmp_path: Path, workshop: Workshop, tiny_model: Path
) -> None:
    requests = [request_for(str(tiny_model), rows=rows) for rows in (1, 2, 4)]
    heard: list[tuple[int, int]] = []
    keeper = TraceKeeper(tmp_path / "traces", {"torch": "1"}, lambda: workshop, lambda *count: heard.append(count))
    documents = keeper.traces(requests)
    assert [document.trace is not None for document in documents] == [True] * 3
    assert heard[0] == (0, 3) and heard[-1] == (3, 3)

    def nobody() -> Workshop:
        raise AssertionError("a worker was started")

    again = TraceKeeper(tmp_path / "traces", {"torch": "1"}, nobody)
    assert again.traces(requests) == documents
    with pytest.raises(AssertionError, match="a worker was started"):
        TraceKeeper(tmp_path / "traces", {"torch": "2"}, nobody).traces(requests)


def test_micro_batches_are_found_by_a_worker_once_and_again_without_one(
    tmp_path: Path, workshop: Workshop, tiny_model: Path
) -> None:
    request = request_for(str(tiny_model))
    workload = replace(request.workload, lengths=SampleLengths.of([3, 8] * 8), effective_batch=4)
    layouts = [
        replace(
            layout_of(request.recipe),
            training_arguments={"per_device_train_batch_size": size, "gradient_accumulation_steps": 4 // size},
        )
        for size in (1, 2)
    ]
    keeper = TraceKeeper(tmp_path / "traces", {"torch": "1"}, lambda: workshop)
    found = keeper.micro_batches(request.model, workload, layouts)
    assert found == [StepBatches(layout, workload, 0).shapes() for layout in layouts]

    def nobody() -> Workshop:
        raise AssertionError("a worker was started")

    again = TraceKeeper(tmp_path / "traces", {"torch": "1"}, nobody)
    assert again.micro_batches(request.model, workload, layouts) == found
    with pytest.raises(AssertionError, match="a worker was started"):
        again.micro_batches(request.model, replace(workload, lengths=SampleLengths.of([3, 9] * 8)), layouts)


def test_a_damaged_trace_is_made_again(tmp_path: Path, workshop: Workshop, tiny_model: Path) -> None:
    request = request_for(str(tiny_model))
    keeper = TraceKeeper(tmp_path / "traces", {}, lambda: workshop)
    (document,) = keeper.traces([request])
    (path,) = (tmp_path / "traces").glob("*.json")
    path.write_text(json.dumps({"trace": 1}))
    (again,) = keeper.traces([request])
    assert again.trace == document.trace


def test_a_worker_that_dies_leaves_a_reason_and_the_search_alive(tmp_path: Path, tiny_model: Path) -> None:
    launcher = FreshInterpreters(dict(os.environ), (sys.executable, str(SCRIPT), "exit-3"))
    workshop = Workshop(kind_of("cpu"), 0, tmp_path / "workshop", lambda sentence: None, launcher=launcher)
    (document,) = TraceKeeper(tmp_path / "traces", {}, lambda: workshop).traces([request_for(str(tiny_model))])
    assert document.trace is None and document.refusal == LOST


def test_a_model_of_70_billion_parameters_is_traced_in_little_memory(own_home: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    document = trace_request(request_for("meta-llama/Llama-3.1-70B", rows=2, length=4096))
    assert document.trace is not None, document.refusal
    assert sum(document.trace.sizes) > 500 * 2**30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2 * 2**20, "KiB"
    assert time.monotonic() - began < 120


EVERY_KIND = (
    "Qwen/Qwen3-30B-A3B", "google/gemma-2-9b", "answerdotai/ModernBERT-base", "google-t5/t5-base",
    "EleutherAI/pythia-1b",
    "google/vit-base-patch16-224", "microsoft/Phi-3-mini-4k-instruct", "openai-community/gpt2",
)  # fmt: skip


@pytest.mark.parametrize("name", EVERY_KIND)
def test_models_of_every_kind_are_traced_for_a_gpu(name: str) -> None:
    document = trace_request(request_for(name))
    assert document.trace is not None, document.refusal


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "pure_bf16", "fp32"])
@pytest.mark.parametrize("name", built_in_models())
def test_every_model_of_the_table_is_traced_in_every_precision(name: str, precision: str) -> None:
    for target in ("cuda", "cpu"):
        document = trace_request(request_for(name, precision=precision, target=target))
        assert document.trace is not None, document.refusal
