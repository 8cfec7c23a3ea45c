"""What is done to a model, as values that compose: masks, ablations, and where they act."""
