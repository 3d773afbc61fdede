"""The application by itself, from a folder to a folder: `python FOLDER -i DICOM -o OUT`."""

import os
import sys

# What goes wrong arrives as an exception; Holoscan's own account of it is for those who ask.
os.environ.setdefault("HOLOSCAN_LOG_LEVEL", "OFF")
os.environ.setdefault("HOLOSCAN_EXECUTOR_LOG_LEVEL", "OFF")

from isocenter_operators.sdk_core import import_sdk_core

if __name__ == "__main__":
    import_sdk_core()  # without MONAI and PyTorch, until somebody asks for them
    from app import MANIFEST, application

    from isocenter_operators.command import main

    sys.exit(main(MANIFEST, application))
