"""Prompts: examples laid out as text, and text as tokens that know their segment."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
