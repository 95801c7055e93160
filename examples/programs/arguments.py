"""A script that takes TrainingArguments as flags, as the examples of transformers do."""

from dataclasses import dataclass, field

from common import EXAMPLES, small_llama, tokenizer
from datasets import load_dataset
from transformers import HfArgumentParser, Trainer, TrainingArguments, default_data_collator


@dataclass
class DataArguments:
    train_file: str = field(default=str(EXAMPLES / "genesis.txt"))
    block_size: int = field(default=64)


def main():
    data, arguments = HfArgumentParser((DataArguments, TrainingArguments)).parse_args_into_dataclasses()
    encode = tokenizer()
    raw = load_dataset("text", data_files=data.train_file, split="train")
    encoded = raw.map(lambda batch: encode(batch["text"]), batched=True, remove_columns=raw.column_names)

    def blocks(batch):
        tokens = [token for text in batch["input_ids"] for token in text]
        starts = range(0, len(tokens) - data.block_size + 1, data.block_size)
        found = [tokens[start : start + data.block_size] for start in starts]
        return {"input_ids": found, "labels": found, "attention_mask": [[1] * data.block_size] * len(found)}

    samples = encoded.map(blocks, batched=True, remove_columns=encoded.column_names)
    trainer = Trainer(model=small_llama(), args=arguments, train_dataset=samples, data_collator=default_data_collator)
    if arguments.do_train:
        trainer.train(resume_from_checkpoint=arguments.resume_from_checkpoint)
        trainer.save_model()


if __name__ == "__main__":
    main()
