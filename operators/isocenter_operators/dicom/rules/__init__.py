"""What is wrong with a DICOM object, by the standard."""
