"""`python -m evoxtral`."""

import sys

from evoxtral.cli import main

sys.exit(main())
