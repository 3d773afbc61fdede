"""A DICOMweb client (PS3.18): whole series by WADO-RS, search by QIDO-RS, storing by STOW-RS."""
