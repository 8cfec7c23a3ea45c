"""``icl-locate``, and ``python -m icl_locate``."""

import sys

from icl_locate.cli.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
