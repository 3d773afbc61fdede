"""`python -m isocenter.worker --config F`: takes jobs from the queue until it is told to stop."""

from __future__ import annotations

import signal
import sys

from isocenter.worker.stack_limit import enlarge_stack

# Before anything else: NumPy starts threads when it is imported, and one that does not block these signals would get
# them, which ends the process at once.
signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))

if __name__ == "__main__":
    enlarge_stack()  # which may start the program again: not after the imports, a worker's whole start

from isocenter.worker.service import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
