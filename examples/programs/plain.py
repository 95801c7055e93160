"""A plain Trainer script: lines of different lengths, padded."""

from common import small_llama, tokenized, tokenizer
from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

trainer = Trainer(
    model=small_llama(),
    args=TrainingArguments(
        output_dir="output",
        per_device_train_batch_size=8,
        gradient_accumulation_steps=2,
        max_steps=20,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
    ),
    train_dataset=tokenized(),
    data_collator=DataCollatorForLanguageModeling(tokenizer(), mlm=False),
)
trainer.train()
trainer.save_model()
