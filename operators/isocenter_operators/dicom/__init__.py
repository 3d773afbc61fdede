"""DICOM objects in and out: read, geometry, codes, segmentations, reports, pictures, checks. No network."""
