"""A sweep whose process may take hardly more memory than it has: run by test_memory.

``python tests/full_memory.py ENGINE``: says how often it was told of it, and how far scores are
from those of the same sweep with memory enough.
"""

import json
import logging
import resource
import sys
from tempfile import TemporaryDirectory

import psutil
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import icl_locate as icl
from icl_locate.embedded.tokenizer import build_tokenizer, vocabulary

LEFT = 60, 30, 15, 8, 4  # megabytes: freed memory that is used again may be enough for the first


def load():
    """A random Llama whose runs take many times that."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 3}
    config = LlamaConfig(**sizes, vocab_size=len(vocabulary()), num_attention_heads=8)
    with TemporaryDirectory() as folder:
        LlamaForCausalLM(config).save_pretrained(folder)
        build_tokenizer().save_pretrained(folder)
        return icl.load_model(folder, device="cpu")


class Told(logging.Handler):
    """Counts what the log says of memory."""

    count = 0

    def emit(self, record):
        self.count += "out of memory" in record.getMessage()


def main(engine):
    told, model = Told(), load()
    logging.getLogger("icl_locate").addHandler(told)
    asked = {"n_shots": 5, "n_queries": 64, "seeds": 0, "metric": "log_prob", "layers": [0, 1]}
    asked |= {"conditions": "examples", "engine": engine, "token_budget": 10**9}
    wanted = icl.sweep(model, "pseudo-translation", **asked)
    enough = resource.getrlimit(resource.RLIMIT_AS)
    for left in LEFT:
        limit = psutil.Process().memory_info().vms + left * 10**6
        resource.setrlimit(resource.RLIMIT_AS, (limit, enough[1]))
        found = icl.sweep(model, "pseudo-translation", **asked)
        resource.setrlimit(resource.RLIMIT_AS, enough)
        if told.count:
            break
    apart = float((found.item_scores - wanted.item_scores).abs().max())
    print(json.dumps({"told": told.count, "left": left, "apart": apart}))


if __name__ == "__main__":
    main(sys.argv[1])
