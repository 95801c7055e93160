"""A classifier that evaluates while it trains and stops early: is a line from the first half of the book?"""

from common import small_llama, tokenized, tokenizer
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    Trainer,
    TrainingArguments,
)

samples = [{**sample, "labels": int(number < 200)} for number, sample in enumerate(tokenized())]
trainer = Trainer(
    model=small_llama(AutoModelForSequenceClassification, num_labels=2),
    args=TrainingArguments(
        output_dir="output",
        per_device_train_batch_size=16,
        max_steps=20,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=10,
        save_steps=10,
        load_best_model_at_end=True,
        report_to="none",
    ),
    train_dataset=samples,
    eval_dataset=samples[:32],
    data_collator=DataCollatorWithPadding(tokenizer()),
    callbacks=[EarlyStoppingCallback(3)],
)
print("before training:", trainer.evaluate())
trainer.train()
