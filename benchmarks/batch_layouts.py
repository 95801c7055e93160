"""Are batch layouts ranked as whole epochs of real training rank them, and how far off is the expected step?

    python -m benchmarks.batch_layouts

Trains a small model on Genesis, verse by verse, in every layout, three ways, turn by turn in one run: the
short trial (a few shapes timed, the expectation taken over the frozen list of effective batches), the whole
trial (effective batches of that list), and what a user then runs: a plain Trainer over one epoch of the
text, with nothing of autofit in it but the exported settings and collator, its own sampler and the clock
around its steps.

Run it alone: anything else on the machine is in the figures.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from autofit.device.kinds import find_device, kind_of
from autofit.job.models import resolve_model
from autofit.job.situation import Limits, Situation
from autofit.job.tasks import task_named
from autofit.job.token_counts import lengths_of_data
from autofit.job.workload import Workload
from autofit.knobs import KNOBS
from autofit.knobs.recipe import Recipe, recipe_for
from autofit.knobs.train_config import TrainConfig
from autofit.study.outcome import Outcome
from autofit.trial.protocol import MeasuringPlan
from autofit.trial.runner import ProcessRunner
from autofit.trial.workshop import Workshop, probe
from benchmarks.record import write_results

EXAMPLES = Path(__file__).parents[1] / "examples"
MODEL, TEXT = EXAMPLES / "small-llama", EXAMPLES / "genesis.txt"
EFFECTIVE_BATCH = 16
MICRO_BATCHES = (4, 16)
LAYOUTS = {
    "fixed_padding": "sdpa",
    "dynamic_padding": "sdpa",
    "batch_rebalance": "sdpa",
    "group_by_length": "sdpa",
    "packed": "sdpa",
    "flattened": "torch_varlen",
}


def main() -> None:
    """Run the rounds and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    source = resolve_model(str(MODEL))
    lengths = lengths_of_data(TEXT, source)
    workload = Workload(
        model=source.name,
        model_digest=source.digest,
        task="causal-lm",
        lengths=lengths,
        effective_batch=EFFECTIVE_BATCH,
    )
    device = find_device("cpu")
    times: dict[tuple[int, str], dict[str, list[float]]] = {}
    padding: dict[tuple[int, str], float] = {}
    with tempfile.TemporaryDirectory() as folder:
        workshop = Workshop(kind_of("cpu"), 0, Path(folder), print)
        try:
            limits = Limits(memory_bytes=device.memory_bytes)
            situation = probe(workshop, source, workload, device, limits, trust_remote_code=False)
            runner = ProcessRunner(workshop, situation, source)
            for _, size, layout in itertools.product(range(options.rounds), MICRO_BATCHES, LAYOUTS):
                recipe = recipe_for(_config(size, layout), situation)
                row = times.setdefault((size, layout), {"short": [], "whole": [], "delivered": []})
                for kind in ("short", "whole"):
                    result = runner.run(recipe, MeasuringPlan(whole=kind == "whole"), "benchmark")
                    if result.outcome is not Outcome.OK or result.measurement is None:
                        raise SystemExit(f"{layout}: {result.outcome.value}: {result.reason}")
                    row[kind].append(result.measurement.step_seconds)
                    padding[size, layout] = result.measurement.padding_share
                row["delivered"].append(_delivered(recipe, situation))
        finally:
            workshop.close()
    console = Console(width=110, highlight=False)
    console.print(lengths.describe())
    figures = [_figures(size, times, padding, console) for size in MICRO_BATCHES]
    write_results("batch_layouts", {"data": lengths.describe(), "micro_batches": figures}, options.output)


def _config(micro_batch_size: int, layout: str) -> TrainConfig:
    plain = {row.name: row.reference for row in KNOBS}
    split = {"micro_batch_size": micro_batch_size, "accumulation_steps": EFFECTIVE_BATCH // micro_batch_size}
    return TrainConfig({**plain, **split, "batch_layout": layout, "attention": LAYOUTS[layout]})


def _delivered(recipe: Recipe, situation: Situation) -> float:
    """Seconds per optimizer step of a plain Trainer over an epoch of the text, after a first epoch."""
    import transformers

    from autofit.worker.build import build_collator, build_model

    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)
    samples = []
    for line in TEXT.read_text(encoding="utf-8").splitlines():
        tokens = tokenizer(line)["input_ids"]
        samples.append({"input_ids": tokens, "attention_mask": [1] * len(tokens), "labels": tokens})
    ends: list[float] = []

    class Ends(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            ends.append(time.perf_counter())

    config = transformers.AutoConfig.from_pretrained(MODEL)
    model = build_model(config, task_named("causal-lm"), "cpu", recipe.model_kwargs, trust_remote_code=False)
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            num_train_epochs=2,
            dataloader_drop_last=True,
            **recipe.training_arguments,
        )
        trainer = transformers.Trainer(
            model=model,
            args=arguments,
            train_dataset=samples,
            data_collator=build_collator(recipe, config),
            callbacks=[Ends()],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    # Whole epochs, so that every sample counts once: the second of the two, after the warm first.
    steps = len(samples) // EFFECTIVE_BATCH
    return (ends[2 * steps - 1] - ends[steps - 1]) / steps


def _figures(
    size: int,
    times: dict[tuple[int, str], dict[str, list[float]]],
    padding: dict[tuple[int, str], float],
    console: Console,
) -> dict[str, Any]:
    titles = ("layout", "padding", "short", "whole", "delivered", "spread", "short off by", "whole off by")
    table = Table(
        *titles,
        box=box.SIMPLE_HEAD,
        title=f"Milliseconds of an optimizer step of {EFFECTIVE_BATCH}, {size} x {EFFECTIVE_BATCH // size}",
    )
    rows = []
    for layout in LAYOUTS:
        samples = times[size, layout]
        medians = {kind: statistics.median(values) for kind, values in samples.items()}
        spread = max(samples["delivered"]) / min(samples["delivered"]) - 1
        off = {kind: medians[kind] / medians["delivered"] - 1 for kind in ("short", "whole")}
        table.add_row(
            layout,
            f"{padding[size, layout]:.0%}",
            *(f"{1000 * medians[kind]:.0f}" for kind in ("short", "whole", "delivered")),
            f"{spread:.0%}",
            *(f"{off[kind]:+.1%}" for kind in ("short", "whole")),
        )
        rows.append({"layout": layout, "padding": padding[size, layout], "seconds": samples, "off": off})
    console.print(table)
    orders = {
        kind: sorted(LAYOUTS, key=lambda layout: statistics.median(times[size, layout][kind]))
        for kind in ("short", "whole", "delivered")
    }
    for kind, order in orders.items():
        console.print(f"{kind:>10}: {' < '.join(order)}")
    return {"micro_batch_size": size, "rows": rows, "orders": orders}


if __name__ == "__main__":
    main()
