"""MONAI Deploy operators from a DICOMweb archive to Triton and back, and what they are made of.

Each operator is a module of its own: `from isocenter_operators.seg_writer import SegWriterOperator`.
MONAI Deploy is not imported here: it takes seconds, and most of this library does without it.
"""

from isocenter_operators.cuda import load_runtime as _load_cuda_runtime

_load_cuda_runtime()  # before any module of this library imports MONAI Deploy, and with it Holoscan
