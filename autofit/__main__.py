"""``python -m autofit``."""

import sys

from autofit.cli.main import main

sys.exit(main())
