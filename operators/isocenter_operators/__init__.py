"""MONAI Deploy operators from a DICOMweb archive to Triton and back, and what they are made of.

Each operator is a module of its own: `from isocenter_operators.seg_writer import SegWriterOperator`.
Nothing is imported here: MONAI Deploy takes seconds to import, and most of this library does without it.
"""
