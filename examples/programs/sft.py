"""TRL's supervised fine-tuning; the first argument says how samples become rows."""

import sys

from common import lines, small_llama, tokenizer
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

KINDS = {
    "plain": {},
    "packing": {"packing": True, "max_length": 128},
    "padding-free": {"padding_free": True, "max_length": None},
    "completion": {},
}


def samples(kind):
    if kind != "completion":
        return Dataset.from_list([{"text": line} for line in lines()])
    words = [line.split() for line in lines()]
    return Dataset.from_list([{"prompt": " ".join(w[:3]), "completion": " " + " ".join(w[3:])} for w in words])


kind = sys.argv[1] if len(sys.argv) > 1 else "plain"
trainer = SFTTrainer(
    model=small_llama(),
    args=SFTConfig(
        output_dir="output",
        per_device_train_batch_size=8,
        gradient_accumulation_steps=2,
        max_steps=20,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        bf16=False,
        **KINDS[kind],
    ),
    train_dataset=samples(kind),
    processing_class=tokenizer(),
)
trainer.train()
trainer.save_model()
