"""Text for reason and warning codes, each with what the user can do."""

_OTHER = "The reason is named in manifest.jsonl."
REASONS = {
    "archive_compression": "The compression method of the archive is not supported. Zip it again.",
    "archive_damaged": "The archive is damaged. Export or copy it again.",
    "body_part_unknown": "The header names no body part, and the rules of this run require one.",
    "broken_link": "A symbolic link whose target does not exist.",
    "compressed_file": "Compressed, and not a zip archive. Unpack it first.",
    "deflated": "Deflated DICOM: a small file can fill the memory. Take it with --allow-deflated.",
    "burned_in_annotation": "Text in the image may name the patient; see --allow-burned-in.",
    "child": "Patient younger than 18 years; the rules of this run exclude children.",
    "dicomdir_damaged": "The directory of the medium is damaged.",
    "empty_archive": "The archive holds no files.",
    "encrypted": "The archive is encrypted. Unpack it with its password first.",
    "missing_file": "The directory of the medium names this image, but it is not there.",
    "modality_unknown": "The header names no modality, and the rules of this run require one.",
    "nested_archive": "An archive inside an archive; it is not opened.",
    "not_retrieved": "The archive did not deliver this image. Run the batch again.",
    "picture": "A PNG or JPEG picture; the rules of this run accept DICOM images only.",
    "wrong_object": "The archive delivered another image than the one requested.",
    "ambiguous_object": "The archive holds different images under the UIDs of this one.",
    "not_asked_for": "The archive answered with a study that does not match the query: it "
    "ignores a key.",
    "symlink_loop": "A symbolic link to a folder that contains it.",
    "unsafe_path": "The name points outside of its folder; no regular export has such names.",
    "uid_malformed": "A UID of study, series or instance is invalid: no DICOM or FHIR results.",
    "view_unknown": "The header does not say AP or PA, and the rules of this run require it.",
    "worker_lost": "The computers that scored this image failed repeatedly. Run the batch again.",
    "bits_allocated": "Pixel format is not supported (neither 8 nor 16 bits).",
    "blank_image": "The image is blank: every pixel is the same.",
    "colour": "The image is in colour, a radiograph is grey.",
    "decode_error": "The pixel data is damaged. Export the image again.",
    "decode_timeout": "Decoding took too long. Try again on an idle machine, or export it again.",
    "decoder_crash": "The decoder crashed on this file. Export the image again.",
    "dimension_mismatch": "Pixel data and header disagree on the size. Export the image again.",
    "engine_error": "The inference engine failed. Run the batch again; try another --engine.",
    "file_changed": "The file changed while it was read. Run the batch again.",
    "for_processing": "Raw detector values (for processing), not an image for display.",
    "high_bit": "Pixel format is not supported.",
    "interrupted": "The run ended before this file was processed. Run the batch again to continue.",
    "invalid_output": "The model's output is not valid.",
    "lut": "A look-up table in the header is malformed. Export the image again.",
    "multi_frame": "The image has several frames. Allow it with --first-frame.",
    "no_preamble": "DICOM without the 128 bytes before its data. Take it with --force-read.",
    "no_sop_instance": "The file holds no DICOM object.",
    "not_a_file": "Not a regular file.",
    "not_an_image": "A DICOM object without an image (report, presentation state, ...).",
    "not_dicom": "Neither DICOM, PNG nor JPEG.",
    "not_frontal_chest": "The header says that this is not a frontal chest radiograph.",
    "number_of_frames": "The number of frames in the header is not valid.",
    "own_result": "A result that this software made of another image.",
    "other_file": "Not an image by its name (text, table, program, ...).",
    "photometric_interpretation": "The header does not say how grey is coded.",
    "pixel_data": "The file has a header but no pixels.",
    "pixel_data_truncated": "The pixel data ends too early. Transfer the file again.",
    "resource_limit": "The image is too large to be read safely.",
    "rows": "The number of rows in the header is missing or not valid.",
    "columns": "The number of columns in the header is missing or not valid.",
    "transfer_syntax": "The compression is not supported, or its decoder is not installed "
    "(pip install 'pneumonia[dicom]').",
    "unreadable": "The file cannot be read: damaged, or no permission.",
}
WARNINGS = {
    "age_conflict": "age and dates in the header disagree on whether this is a child",
    "alpha_ignored": "transparency was ignored",
    "looks_inverted": "the image looks inverted (dense tissue dark): do not rely on its score",
    "lut_bits_differ": "the header's look-up table has another depth than it states; the depth of "
    "its values was used",
    "body_part_unknown": "the header names no body part",
    "box_limit_reached": "the maximum number of regions is reported; there may be more",
    "burned_in_annotation": "text is burned into the image; it may name the patient",
    "character_set": "text in the header does not fit its character set; DICOM results hold its "
    "bytes as they are",
    "colour_converted": "a colour picture was converted to grey",
    "decimal_comma": "numbers in the header have decimal commas, which were read as points",
    "degraded": "the image is damaged: nothing found does not mean negative",
    "excess_pixel_bytes": "more pixel data than the header announces",
    "executable_like_preamble": "the file begins like a program; it was read as an image only",
    "exif_orientation_ignored": "the picture's EXIF orientation was ignored; it is scored and "
    "shown as stored",
    "identity_left_out": "a malformed attribute of patient or study is missing in DICOM results",
    "identity_rewritten": "dates, times or the age in an older format are written in the current "
    "format in DICOM results",
    "image_changed": "an earlier run scored other pixels or another patient under the UID of this "
    "image",
    "instance_uid_conflict": "another image of this batch has the same SOP Instance UID: neither "
    "gets results for a PACS",
    "modality_unknown": "the header names no modality",
    "number_malformed": "a number in the header (window, rescale or pixel spacing) cannot be read "
    "and was ignored",
    "outside_indication": "younger than 18 years: the model has not been evaluated on children",
    "presentation_intent_conflict": "the header contradicts itself on what the image is for",
    "presentation_lut_conflict": "the header contradicts itself on black and white",
    "rescale_incomplete": "the header has a rescale slope or intercept without the other",
    "rescale_slope_zero": "the header's rescale slope is 0 and was ignored",
    "view_conflict": "the header contradicts itself on the view",
    "view_unknown": "the header does not say AP or PA",
    "voi_function_unknown": "the header's window function is unknown",
    "window_invalid": "the header's window is not valid and was ignored",
}


def reason_text(code: str) -> str:
    """A reason as a sentence; an unknown code unchanged."""
    return REASONS.get(code) or f"{code.replace('_', ' ').capitalize()}. {_OTHER}"


def warning_text(code: str) -> str:
    """A warning as a sentence; an unknown code unchanged."""
    return WARNINGS.get(code, code.replace("_", " "))
