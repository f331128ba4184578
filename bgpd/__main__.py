"""``python -m bgpd`` is the command ``bgpd``."""

import sys

from bgpd.cli.daemon import main

sys.exit(main())
