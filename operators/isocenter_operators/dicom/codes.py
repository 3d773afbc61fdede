"""The coded concepts of Isocenter's results, each from where the standard lists it.

Context groups (CID) are those of PS3.16, Annex B; units are UCUM. What the standard has no code for stands in the
private scheme 99ISOCENTER, which every result that uses it declares (PS3.3, C.12.1.1.9): never a near miss.
"""

from __future__ import annotations

from isocenter_operators.dicom.findings import Code

__all__ = [
    "ANATOMICAL_STRUCTURE",
    "ARTIFICIAL_INTELLIGENCE",
    "ATTENUATION",
    "BILATERAL",
    "BOX_DEPTH",
    "BOX_HEIGHT",
    "BOX_WIDTH",
    "CERTAINTY_OF_FINDING",
    "CLASSIFICATION",
    "COMMENT",
    "ESTIMATE",
    "HOUNSFIELD_UNIT",
    "IMAGING_PROCEDURE",
    "LAA_950",
    "LEFT",
    "LUNG",
    "MEAN",
    "MILLILITER",
    "MILLIMETER",
    "MORPHOLOGICAL_OPERATIONS",
    "NO",
    "PERCENT",
    "PERCENTILE_15",
    "PRIOR",
    "PRIVATE_SCHEME",
    "RIGHT",
    "VOLUME",
    "YES",
]

PRIVATE_SCHEME = "99ISOCENTER"

# Segmented properties: CID 7150 categories, CID 7192 anatomical structures, CID 244 laterality.
ANATOMICAL_STRUCTURE = Code("91723000", "SCT", "Anatomical Structure")
LUNG = Code("39607008", "SCT", "Lung")
RIGHT = Code("24028007", "SCT", "Right")
LEFT = Code("7771000", "SCT", "Left")
BILATERAL = Code("51440002", "SCT", "Bilateral")

# Measurements: CID 7469 (volume), CID 218 (attenuation coefficient); derivations: CID 7464.
VOLUME = Code("118565006", "SCT", "Volume")
ATTENUATION = Code("112031", "DCM", "Attenuation Coefficient")
MEAN = Code("373098007", "SCT", "Mean")
# CID 226 and CID 7464 know the 5th, 10th, 90th and 95th percentile only. Both of these are after
# Newell JD et al., J Thorac Imaging 28(5), 2013 (QIBA lung density), the usual densitometry of emphysema.
PERCENTILE_15 = Code("PERC15", PRIVATE_SCHEME, "15th percentile of the values")
LAA_950 = Code("LAA950", PRIVATE_SCHEME, "Low attenuation area below -950 HU, share of volume")
# CID 6048: how sure the algorithm is that what it marks is what it says, 0 to 100 %; TID 4006 counts so too.
CERTAINTY_OF_FINDING = Code("111012", "DCM", "Certainty of Finding")
# What a model says of the images as a whole is no finding in them; the standard has no code for either.
CLASSIFICATION = Code("CLASSIFICATION", PRIVATE_SCHEME, "Classification of the images as a whole by a model")
ESTIMATE = Code("ESTIMATE", PRIVATE_SCHEME, "Estimate from the images as a whole by a model")
# What a detector gives is the box, and none of the sizes of what is in it that CID 7470 has.
BOX_WIDTH = Code("BOXWIDTH", PRIVATE_SCHEME, "Size of the box around a finding, right to left")
BOX_DEPTH = Code("BOXDEPTH", PRIVATE_SCHEME, "Size of the box around a finding, front to back")
BOX_HEIGHT = Code("BOXHEIGHT", PRIVATE_SCHEME, "Size of the box around a finding, foot to head")
YES = Code("373066001", "SCT", "Yes")  # CID 231
NO = Code("373067005", "SCT", "No")

# CID 7181 Abstract Multi-dimensional Image Model Component Units, and UCUM itself.
MILLILITER = Code("mL", "UCUM", "milliliter")
MILLIMETER = Code("mm", "UCUM", "mm")
HOUNSFIELD_UNIT = Code("[hnsf'U]", "UCUM", "Hounsfield unit")
PERCENT = Code("%", "UCUM", "Percent")

# CID 7162 Surface Processing Algorithm Families; TID 1500 rows 4 and 12.
ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")
MORPHOLOGICAL_OPERATIONS = Code("123104", "DCM", "Morphological Operations")
IMAGING_PROCEDURE = Code("363679005", "SCT", "Imaging procedure")
COMMENT = Code("121106", "DCM", "Comment")
# "Temporal Predecessor" (CID 7201) is the instance before in a series of consecutive ones, which a prior is not.
PRIOR = Code("PRIOR", PRIVATE_SCHEME, "Image of an earlier study, for comparison")
