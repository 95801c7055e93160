"""Train a small model on real text with the arguments that autofit exported.

autofit examples/small-llama --effective-batch 16 --seq-len 128 --export training-arguments=train_args.py
python examples/train_on_text.py train_args.py
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("arguments", type=Path, help="the file that --export training-arguments= wrote")
    parser.add_argument("--text", type=Path, default=HERE / "genesis.txt")
    parser.add_argument("--max-steps", type=int, default=30, help="optimizer steps")
    parser.add_argument("--output-dir", default="output")
    options = parser.parse_args()

    # First of all: it sets the environment variables that torch reads when it is imported.
    exported = load(options.arguments)
    from transformers import AutoConfig, AutoModelForCausalLM, ByT5Tokenizer, Trainer

    # Batch split, precision, checkpointing and optimizer are measured; the rest is ours to choose.
    arguments = exported.training_arguments(
        options.output_dir,
        learning_rate=1e-3,
        max_steps=options.max_steps,
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        seed=1,
    )
    tokenizer = ByT5Tokenizer()
    samples = exported.samples_of(exported.texts_of(options.text, "text"), tokenizer)
    # There are no weights to start from here; with some, this would be exported.load_model().
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(exported.MODEL), **exported.MODEL_KWARGS)
    collator = exported.data_collator(tokenizer)
    trainer = Trainer(model=model, args=arguments, train_dataset=samples, data_collator=collator)
    trainer.train()

    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    print(
        f"{len(samples)} samples, {len(losses)} optimizer steps of {exported.EFFECTIVE_BATCH} samples "
        f"({arguments.per_device_train_batch_size} x {arguments.gradient_accumulation_steps}): "
        f"loss {losses[0]:.2f} -> {losses[-1]:.2f}"
    )


def load(path: Path) -> ModuleType:
    """A Python file as a module."""
    spec = importlib.util.spec_from_file_location("train_args", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise SystemExit(f"{path} is not a Python file; make one with autofit ... --export training-arguments={path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
