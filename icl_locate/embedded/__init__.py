"""The model that comes with the package: its languages, tokenizer, weights and card."""
