"""Models: how they are found, loaded and told apart, and what a token costs in them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
