"""`python -m nnsight_lab.cli` is `nnsight-lab`, also where no script is installed."""

import sys

from nnsight_lab.cli import main

__all__: list[str] = []

sys.exit(main())
