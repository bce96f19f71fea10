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
