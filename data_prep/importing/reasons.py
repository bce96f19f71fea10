"""Reasons why an import leaves out a file or a label entry, as sentences for people."""

from pneumonia.runtime.label_table import FAULTS

REASONS = {
    **FAULTS,
    "ambiguous_name": "The name in the labels fits several images, or several names fit this image",
    "box_outside_frame": "A box lies outside the frame of 1024 x 1024",
    "box_outside_image": "A box lies outside the image: see --frame if the boxes refer to another "
    "size",
    "category_without_box": "The row names a lung opacity but has no box",
    "class_conflict": "The class table has two classes for the image",
    "class_target_mismatch": "The class contradicts the boxes",
    "dangling_link": "A symbolic link whose target does not exist",
    "file_missing": "The listed file does not exist in the source folder",
    "given_splits_differ": "The tables put the image into different splits",
    "image_id_repeated": "Two images of the file have the same id",
    "image_shape_differs": "The label file states an image size of another shape: see --frame",
    "listed_twice": "The image is listed twice",
    "malformed_row": "A row or annotation of the image is malformed",
    "nih_frame_is_in_rsna": "The NIH frame is among the RSNA images",
    "no_image": "The labels name an image that is not in the folder",
    "no_label": "The image has no label",
    "not_a_file": "Not a regular file",
    "not_an_image_name": "Not a DICOM, PNG or JPEG file by its name",
    "not_utf8": "The label file is not UTF-8 text",
    "patient_conflict": "The tables name two patients or splits for the image",
    "picture_stored_rotated": "EXIF data rotate the picture, so the frame of its boxes is not "
    "known: save it upright",
    "second_file_of_id": "Another file has the same name without suffix",
    "target_mismatch": "The image is labelled both negative and positive",
    "unknown_category": "An annotation has a category that the file does not define",
    "unknown_class": "The class is not one of the challenge",
    "unknown_image": "The annotation refers to an image that the file does not define",
    "unknown_kind": "The kind of the image is not known",
    "unreadable": "The file cannot be read: damaged, or no permission",
    "without_report": "No report belongs to the image",
}


def reason_detail(code: str) -> str:
    """The sentence of a reason code; empty for codes of image decoding, which bring their own."""
    return REASONS.get(code, "")
