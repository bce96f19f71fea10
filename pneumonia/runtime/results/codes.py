"""Codes of TID 1500 reports that a model's report and the readers' share (PS3.16)."""

from pneumonia.runtime.results.content import ConceptCode

TITLE = ConceptCode("126000", "DCM", "Imaging Measurement Report")
LANGUAGE = ConceptCode("121049", "DCM", "Language of Content Item and Descendants")
ENGLISH = ConceptCode("en-US", "RFC5646", "English (United States)")
OBSERVER_TYPE = ConceptCode("121005", "DCM", "Observer Type")
PROCEDURE = ConceptCode("121058", "DCM", "Procedure reported")
CHEST_RADIOGRAPHY = ConceptCode("399208008", "SCT", "Plain chest X-ray")
MEASUREMENTS = ConceptCode("126010", "DCM", "Imaging Measurements")
GROUP = ConceptCode("125007", "DCM", "Measurement Group")
TRACKING = ConceptCode("112039", "DCM", "Tracking Identifier")
TRACKING_UID = ConceptCode("112040", "DCM", "Tracking Unique Identifier")
FINDING = ConceptCode("121071", "DCM", "Finding")
REGION = ConceptCode("111030", "DCM", "Image Region")
QUALITATIVE = ConceptCode("C0034375", "UMLS", "Qualitative Evaluations")
COMMENT = ConceptCode("121106", "DCM", "Comment")
FINDING_SITE = ConceptCode("363698007", "SCT", "Finding Site")
# A region suspicious of pneumonia: the code of chest CAD (CID 6104), at the site "lung".
OPACITY = ConceptCode("112001", "DCM", "Opacity")
LUNG = ConceptCode("39607008", "SCT", "Lung")
INTERPRETATION = ConceptCode("363713009", "SCT", "Has interpretation")
POSITIVE = ConceptCode("10828004", "SCT", "Positive")
NEGATIVE = ConceptCode("260385009", "SCT", "Negative")
INDETERMINATE = ConceptCode("82334004", "SCT", "Indeterminate")
SCORE = ConceptCode("246262008", "SCT", "Score")
CERTAINTY = ConceptCode("111012", "DCM", "Certainty of Finding")
WIDTH = ConceptCode("103355008", "SCT", "Width")
HEIGHT = ConceptCode("121207", "DCM", "Height")
SOURCE = ConceptCode("121112", "DCM", "Source of Measurement")
ALGORITHM_NAME = ConceptCode("111001", "DCM", "Algorithm Name")
ALGORITHM_PARAMETERS = ConceptCode("111002", "DCM", "Algorithm Parameters")
ALGORITHM_VERSION = ConceptCode("111003", "DCM", "Algorithm Version")
PERCENT = ConceptCode("%", "UCUM", "Percent")
MM = ConceptCode("mm", "UCUM", "millimeter")
PIXELS = ConceptCode("{pixels}", "UCUM", "Pixels")
MM_PER_PIXEL = ConceptCode("mm/{pixel}", "UCUM", "millimeters per pixel")
IMAGE_LIBRARY = ConceptCode("111028", "DCM", "Image Library")
IMAGE_LIBRARY_GROUP = ConceptCode("126200", "DCM", "Image Library Group")
MODALITY = ConceptCode("121139", "DCM", "Modality")
# CID 29; other modalities of a radiograph are not stated
MODALITIES = {
    "CR": ConceptCode("CR", "DCM", "Computed Radiography"),
    "DX": ConceptCode("DX", "DCM", "Digital Radiography"),
    "RG": ConceptCode("RG", "DCM", "Radiographic imaging"),
    "OT": ConceptCode("OT", "DCM", "Other Modality"),
}
ROWS = ConceptCode("110910", "DCM", "Pixel Data Rows")
COLUMNS = ConceptCode("110911", "DCM", "Pixel Data Columns")
ROW_SPACING = ConceptCode("111066", "DCM", "Vertical Pixel Spacing")
COLUMN_SPACING = ConceptCode("111026", "DCM", "Horizontal Pixel Spacing")
# attribute of the image -> its name in an image library (TID 1602)
DATES = {
    "StudyDate": ConceptCode("111060", "DCM", "Study Date"),
    "StudyTime": ConceptCode("111061", "DCM", "Study Time"),
    "ContentDate": ConceptCode("111018", "DCM", "Content Date"),
    "ContentTime": ConceptCode("111019", "DCM", "Content Time"),
    "AcquisitionDate": ConceptCode("126201", "DCM", "Acquisition Date"),
    "AcquisitionTime": ConceptCode("126202", "DCM", "Acquisition Time"),
}
