"""Search from Python: the same search, and the same result, as the command's.

python examples/library_call.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import autofit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=str(Path(__file__).parent / "small-llama"))
    parser.add_argument("--effective-batch", type=int, default=12)
    parser.add_argument("--max-trials", type=int, default=8)
    options = parser.parse_args()

    result = autofit.search(
        options.model,
        effective_batch=options.effective_batch,
        seq_len=128,
        budget="3m",
        max_trials=options.max_trials,
        run=autofit.Run(samples=10_000, epochs=3),
    )
    # The whole report, as the command prints it.
    print(result)

    # Or piece by piece.
    for ranked in result.ranking.ranked:
        config, measurement = ranked.trial.config, ranked.measurement
        print(
            f"{ranked.rank}. {config.micro_batch_size} x {config.accumulation_steps}: {measurement.step_seconds:.3f} s"
        )
    arguments = result.best.training_arguments(output_dir="output", learning_rate=3e-4)
    effective_batch = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
    print(f"TrainingArguments at an effective batch of {effective_batch}, model loaded with {result.best.model_kwargs}")


if __name__ == "__main__":
    main()
