"""A Seq2SeqTrainer on a small T5: the second half of a line from its first half."""

from common import lines as genesis
from common import tokenizer
from transformers import (
    DataCollatorForSeq2Seq,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
    set_seed,
)


def sample(line, encode):
    words = line.split()
    half = len(words) // 2
    question = dict(encode(" ".join(words[:half])))
    return {**question, "labels": encode(" ".join(words[half:]))["input_ids"]}


encode = tokenizer()
set_seed(0)
model = T5ForConditionalGeneration(
    T5Config(vocab_size=len(encode), d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, decoder_start_token_id=0)
)
trainer = Seq2SeqTrainer(
    model=model,
    args=Seq2SeqTrainingArguments(
        output_dir="output",
        per_device_train_batch_size=8,
        gradient_accumulation_steps=2,
        max_steps=20,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
    ),
    train_dataset=[sample(line, encode) for line in genesis()],
    data_collator=DataCollatorForSeq2Seq(encode, model),
)
trainer.train()
trainer.save_model()
