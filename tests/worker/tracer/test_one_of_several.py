"""Traces of one process of several against real ones, and what they leave behind in the process that traces."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import torch

from autofit.predict.timeline import StepBuilder
from autofit.predict.trace import Category, Phase
from autofit.worker.tracer.batch import trace_request
from benchmarks.prediction.live_bytes import Case, request_of
from benchmarks.prediction.live_processes import Shared

CASES = (
    Shared(case=Case(architecture="llama", accumulation=3), parallelism="ddp"),
    Shared(case=Case(architecture="llama", accumulation=1, checkpointing="every_layer"), parallelism="ddp"),
    Shared(case=Case(architecture="qwen3", accumulation=1, precision="bf16"), parallelism="fsdp2"),
    Shared(case=Case(architecture="llama", accumulation=3, precision="pure_bf16"), parallelism="fsdp2"),
    Shared(case=Case(architecture="gpt2", optimizer="adamw_torch"), parallelism="fsdp2_kept"),
    Shared(case=Case(architecture="llama", method="lora", precision="bf16"), parallelism="fsdp2", processes=4),
)


@pytest.mark.whole
def test_bytes_alive_in_a_process_are_within_half_a_percent_in_every_phase(tmp_path: Path) -> None:
    # In a process that may be forked: pytest has threads of its own.
    cases, rows = tmp_path / "cases.json", tmp_path / "rows.json"
    cases.write_bytes(msgspec.json.encode(CASES))
    subprocess.run(
        [sys.executable, "-m", "benchmarks.prediction.live_processes", cases, rows],
        check=True,
        timeout=300,
        cwd=Path(__file__).parents[3],
    )
    found = json.loads(rows.read_text())
    assert [row["case"] for row in found] == [shared.name for shared in CASES]
    for row in found:
        assert "refusal" not in row, row
        assert all(abs(error) <= 0.005 for error in row["errors"].values()), row


def test_afterwards_the_process_is_alone_again() -> None:
    request, _ = request_of(Case(architecture="llama"))
    before, environment = trace_request(request).trace, dict(os.environ)
    shared = Shared(case=Case(architecture="llama"), parallelism="fsdp2")
    assert trace_request(msgspec.structs.replace(request, recipe=shared.shared(request.recipe))).trace != before
    assert not torch.distributed.is_initialized()
    assert dict(os.environ) == environment
    assert trace_request(request).trace == before


def test_what_fsdp2_gathers_and_reduces_is_on_streams_of_its_own() -> None:
    case = Case(architecture="llama", accumulation=1)
    request, _ = request_of(case)
    streams = {}
    for parallelism in ("ddp", "fsdp2"):
        recipe = Shared(case=case, parallelism=parallelism).shared(request.recipe)
        trace = trace_request(msgspec.structs.replace(request, recipe=recipe)).trace
        assert trace is not None
        streams[parallelism] = trace.stream_of
    assert streams["ddp"] == {}
    # Copies of what is gathered, and what is reduced, which stays as the gradients.
    assert set(streams["fsdp2"].values()) == {1, 2}
    assert {streams["fsdp2"].get(block) for block in trace.gradient_of.values()} == {2}


def test_what_processes_move_and_send_before_the_first_step_is_taken_and_freed_there() -> None:
    case = Case(architecture="llama", accumulation=1)
    request, _ = request_of(case)
    for parallelism, processes in (("ddp", 1), ("fsdp2", 2)):
        recipe = Shared(case=case, parallelism=parallelism).shared(request.recipe)
        trace = trace_request(msgspec.structs.replace(request, recipe=recipe)).trace
        assert trace is not None
        before = trace.events[: trace.phase_ends[Phase.BEFORE]]
        freed = [-event - 1 for event in before if event < 0]
        assert {block + 1 for block in freed} <= set(before)
        # DDP sends all weights in one piece; FSDP2 has each on the card whole before it keeps its part.
        gradients = sum(trace.sizes[block] for block in set(trace.gradient_of.values()))
        assert sum(trace.sizes[block] for block in freed) == pytest.approx(processes * gradients, rel=0.01)


@pytest.mark.parametrize("micro_steps", [1, 2])
def test_of_what_is_offloaded_only_what_is_gathered_is_on_the_device(micro_steps: int) -> None:
    case = Case(architecture="llama", accumulation=micro_steps)
    request, _ = request_of(case)
    to, peaks, gradients = torch.Tensor.to, {}, {}
    for parallelism in ("fsdp2", "fsdp2_offload"):
        recipe = Shared(case=case, parallelism=parallelism).shared(request.recipe)
        trace = trace_request(msgspec.structs.replace(request, recipe=recipe, micro_steps=micro_steps)).trace
        assert trace is not None
        peaks[parallelism] = StepBuilder(trace).steady_step(micro_steps).phase_peaks()
        gradients[parallelism] = sum(trace.sizes[block] for block in set(trace.gradient_of.values()))
    assert torch.Tensor.to is to
    # Weights, gradients and the optimizer's two moments are as large as each other.
    kept = peaks["fsdp2"][Phase.UPDATE] - peaks["fsdp2_offload"].get(Phase.UPDATE, 0)
    assert kept >= 4 * gradients["fsdp2"]
    update = trace.events[trace.phase_ends[Phase.BACKWARD] : trace.phase_ends[Phase.UPDATE]]
    assert gradients["fsdp2_offload"] == 0 and not any(event > 0 for event in update)
    assert all(Category(category) is not Category.OPTIMIZER_STATE for category in trace.categories)


def test_the_mesh_is_the_hosts_also_where_torch_has_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._C, "_get_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setenv("FSDP_OFFLOAD_PARAMS", "true")
    request, _ = request_of(Case(architecture="llama", accumulation=1))
    shared = Shared(case=Case(architecture="llama", accumulation=1), parallelism="fsdp2")
    document = trace_request(msgspec.structs.replace(request, recipe=shared.shared(request.recipe)))
    assert document.trace is not None, document.refusal


def test_each_process_takes_less_the_more_there_are_and_gathers_the_same() -> None:
    case = Case(architecture="llama", accumulation=1)
    request, _ = request_of(case)
    traces = []
    for processes in (2, 8):
        recipe = Shared(case=case, parallelism="fsdp2", processes=processes).shared(request.recipe)
        trace = trace_request(msgspec.structs.replace(request, recipe=recipe)).trace
        assert trace is not None
        traces.append(trace)
    few, many = (sum(trace.sizes[block] for block in trace.gradient_of.values()) for trace in traces)
    assert few == pytest.approx(4 * many, rel=0.01)
    assert traces[0].exchanged == pytest.approx(traces[1].exchanged, rel=0.01)
