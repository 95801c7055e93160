"""A data set that is a stream: it has no length, and is read once."""

from common import LONGEST, lines, small_llama, tokenizer
from torch.utils.data import IterableDataset
from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

encode = tokenizer()


class Lines(IterableDataset):
    def __iter__(self):
        for line in lines():
            yield dict(encode(line, truncation=True, max_length=LONGEST))


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
    train_dataset=Lines(),
    data_collator=DataCollatorForLanguageModeling(encode, mlm=False),
)
trainer.train()
trainer.save_model()
