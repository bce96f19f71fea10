"""Codes of TID 1500 reports that a model's report and the readers' share (PS3.16)."""

from pneumonia.runtime.results.content import Code

TITLE = Code("126000", "DCM", "Imaging Measurement Report")
LANGUAGE = Code("121049", "DCM", "Language of Content Item and Descendants")
ENGLISH = Code("en-US", "RFC5646", "English (United States)")
OBSERVER_TYPE = Code("121005", "DCM", "Observer Type")
PROCEDURE = Code("121058", "DCM", "Procedure reported")
CHEST_RADIOGRAPHY = Code("399208008", "SCT", "Plain chest X-ray")
MEASUREMENTS = Code("126010", "DCM", "Imaging Measurements")
GROUP = Code("125007", "DCM", "Measurement Group")
TRACKING = Code("112039", "DCM", "Tracking Identifier")
TRACKING_UID = Code("112040", "DCM", "Tracking Unique Identifier")
FINDING = Code("121071", "DCM", "Finding")
REGION = Code("111030", "DCM", "Image Region")
QUALITATIVE = Code("C0034375", "UMLS", "Qualitative Evaluations")
COMMENT = Code("121106", "DCM", "Comment")
FINDING_SITE = Code("363698007", "SCT", "Finding Site")
# A region suspicious of pneumonia: the code of chest CAD (CID 6104), at the site "lung".
OPACITY = Code("112001", "DCM", "Opacity")
LUNG = Code("39607008", "SCT", "Lung")
INTERPRETATION = Code("363713009", "SCT", "Has interpretation")
POSITIVE = Code("10828004", "SCT", "Positive")
NEGATIVE = Code("260385009", "SCT", "Negative")
INDETERMINATE = Code("82334004", "SCT", "Indeterminate")
SCORE = Code("246262008", "SCT", "Score")
CERTAINTY = Code("111012", "DCM", "Certainty of Finding")
WIDTH = Code("103355008", "SCT", "Width")
HEIGHT = Code("121207", "DCM", "Height")
SOURCE = Code("121112", "DCM", "Source of Measurement")
ALGORITHM_NAME = Code("111001", "DCM", "Algorithm Name")
ALGORITHM_PARAMETERS = Code("111002", "DCM", "Algorithm Parameters")
ALGORITHM_VERSION = Code("111003", "DCM", "Algorithm Version")
PERCENT = Code("%", "UCUM", "Percent")
MM = Code("mm", "UCUM", "millimeter")
PIXELS = Code("{pixels}", "UCUM", "Pixels")
MM_PER_PIXEL = Code("mm/{pixel}", "UCUM", "millimeters per pixel")
IMAGE_LIBRARY = Code("111028", "DCM", "Image Library")
IMAGE_LIBRARY_GROUP = Code("126200", "DCM", "Image Library Group")
MODALITY = Code("121139", "DCM", "Modality")
# CID 29; other modalities of a radiograph are not stated
MODALITIES = {
    "CR": Code("CR", "DCM", "Computed Radiography"),
    "DX": Code("DX", "DCM", "Digital Radiography"),
    "RG": Code("RG", "DCM", "Radiographic imaging"),
    "OT": Code("OT", "DCM", "Other Modality"),
}
ROWS = Code("110910", "DCM", "Pixel Data Rows")
COLUMNS = Code("110911", "DCM", "Pixel Data Columns")
ROW_SPACING = Code("111066", "DCM", "Vertical Pixel Spacing")
COLUMN_SPACING = Code("111026", "DCM", "Horizontal Pixel Spacing")
# attribute of the image -> its name in an image library (TID 1602)
DATES = {
    "StudyDate": Code("111060", "DCM", "Study Date"),
    "StudyTime": Code("111061", "DCM", "Study Time"),
    "ContentDate": Code("111018", "DCM", "Content Date"),
    "ContentTime": Code("111019", "DCM", "Content Time"),
    "AcquisitionDate": Code("126201", "DCM", "Acquisition Date"),
    "AcquisitionTime": Code("126202", "DCM", "Acquisition Time"),
}
