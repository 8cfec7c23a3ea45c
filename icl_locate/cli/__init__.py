"""The command line, ``icl-locate``: one file a command; `command` holds the table of them.

Nothing is loaded here before it is asked for, so that Ctrl-C is said in words from the start.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
