"""TRL's direct preference optimisation: pairs of a line as it is and with its words in reverse."""

from common import lines, small_llama, tokenizer
from datasets import Dataset
from trl import DPOConfig, DPOTrainer


def pair(line):
    words = line.split()
    return {
        "prompt": " ".join(words[:3]),
        "chosen": " " + " ".join(words[3:]),
        "rejected": " " + " ".join(reversed(words[3:])),
    }


trainer = DPOTrainer(
    model=small_llama(),
    ref_model=small_llama(),
    args=DPOConfig(
        output_dir="output",
        per_device_train_batch_size=4,
        gradient_accumulation_steps=4,
        max_steps=20,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        bf16=False,
    ),
    train_dataset=Dataset.from_list([pair(line) for line in lines(200)]),
    processing_class=tokenizer(),
)
trainer.train()
trainer.save_model()
