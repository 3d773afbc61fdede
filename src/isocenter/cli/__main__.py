"""`python -m isocenter.cli`."""

from __future__ import annotations

import sys

from isocenter.cli.main import main

sys.exit(main())
