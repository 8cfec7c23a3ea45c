"""Vectors: what the context leaves in the residual stream, taken out and put in elsewhere."""

__all__: list[str] = []
