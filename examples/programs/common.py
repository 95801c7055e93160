"""Parts that the example programs share: a small llama, its tokenizer, and lines of real text."""

from pathlib import Path

from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, set_seed

EXAMPLES = Path(__file__).parents[1]
SMALL_LLAMA = EXAMPLES / "small-llama"
LONGEST = 128


def lines(number=400):
    """Lines of Genesis."""
    text = (EXAMPLES / "genesis.txt").read_text(encoding="utf-8")
    return [line.strip() for line in text.splitlines() if len(line.split()) > 3][:number]


def tokenizer():
    """The tokenizer, with a padding token."""
    found = AutoTokenizer.from_pretrained(SMALL_LLAMA)
    found.pad_token = found.pad_token or found.eos_token
    return found


def small_llama(auto_class=AutoModelForCausalLM, **changes):
    """A fresh model of 900 thousand parameters, the same each time."""
    set_seed(0)
    model = auto_class.from_config(AutoConfig.from_pretrained(SMALL_LLAMA, **changes))
    model.config.pad_token_id = model.config.pad_token_id or 0
    return model


def tokenized(number=400):
    """Each line as token ids."""
    encode = tokenizer()
    return [dict(encode(line, truncation=True, max_length=LONGEST)) for line in lines(number)]
