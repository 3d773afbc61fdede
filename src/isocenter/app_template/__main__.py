"""The application by itself, from a folder to a folder: `python FOLDER -i DICOM -o OUT`."""

import os
import sys

# What goes wrong arrives as an exception; Holoscan's own account of it is for those who ask.
os.environ.setdefault("HOLOSCAN_LOG_LEVEL", "OFF")
os.environ.setdefault("HOLOSCAN_EXECUTOR_LOG_LEVEL", "OFF")

from app import MANIFEST, application

from isocenter_operators.command import main

if __name__ == "__main__":
    sys.exit(main(MANIFEST, application))
