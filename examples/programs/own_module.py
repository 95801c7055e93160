"""A module of one's own with a loss of one's own: no model of transformers, no collator of its."""

import torch
from common import LONGEST, lines, tokenizer
from transformers import Trainer, TrainingArguments, set_seed

encode = tokenizer()


class Recurrent(torch.nn.Module):
    def __init__(self, vocabulary, width=64):
        super().__init__()
        self.embedding = torch.nn.Embedding(vocabulary, width)
        self.recurrent = torch.nn.GRU(width, width, batch_first=True)
        self.head = torch.nn.Linear(width, vocabulary)

    def forward(self, tokens):
        return self.head(self.recurrent(self.embedding(tokens))[0])


class OwnLoss(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        logits = model(inputs["tokens"])
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), inputs["target"][:, 1:].flatten())
        return (loss, logits) if return_outputs else loss


def collate(texts):
    rows = [torch.tensor(encode(text)["input_ids"][:LONGEST]) for text in texts]
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return {"tokens": tokens, "target": torch.where(tokens == 0, -100, tokens)}


set_seed(0)
trainer = OwnLoss(
    model=Recurrent(len(encode)),
    args=TrainingArguments(
        output_dir="output",
        per_device_train_batch_size=8,
        gradient_accumulation_steps=2,
        max_steps=20,
        logging_steps=1,
        save_strategy="no",
        remove_unused_columns=False,
        report_to="none",
    ),
    train_dataset=lines(),
    data_collator=collate,
)
trainer.train()
trainer.save_model()
