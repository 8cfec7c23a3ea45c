"""Results as self-contained HTML pages; one module a kind of result."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
