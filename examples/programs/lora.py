"""TRL's supervised fine-tuning of LoRA adapters."""

from common import lines, small_llama, tokenizer
from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

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
    ),
    train_dataset=Dataset.from_list([{"text": line} for line in lines()]),
    processing_class=tokenizer(),
    peft_config=LoraConfig(task_type="CAUSAL_LM", r=8, target_modules="all-linear"),
)
trainer.train()
trainer.save_model()
