"""``python -m icl_locate.cli``."""

import sys

from icl_locate.cli import main

sys.exit(main())
