"""Mutated DICOM files: generated films as trees of elements, changed where parsers are weak.

`mutated(seed, number)` is the file of that number, the same bytes every time.
"""

import functools
import random
import struct
import tempfile
from pathlib import Path

import numpy as np

from tests.runtime import dicoms
from tests.runtime.dicoms import chest_dataset, lut_item, save, save_compressed, save_rle

CANARY = "CANARY^PHI"
LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
VRS = sorted(LONG | {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO",
                     b"LT", b"PN", b"SH", b"SL", b"SS", b"ST", b"TM", b"UI", b"UL", b"US", b"\0\0",
                     b"??", b"\xff\xff"})  # fmt: skip
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
PIXELS, SYNTAX = 0x7FE00010, 0x00020010
UNDEFINED = 0xFFFFFFFF
LENGTHS = (0, 1, 2, 3, 7, 8, 255, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFD, 0xFFFFFFFE)
NUMBERS = (0, 1, 2, 3, 7, 8, 9, 12, 15, 16, 17, 31, 32, 64, 127, 128, 255, 256, 4095, 4096, 16384,
           16385, 32767, 32768, 65534, 65535)  # fmt: skip
TEXTS = ("", " ", "0", "-0", "1", "-1", "1.5", "1,5", "1e400", "-1e400", "1e-400", "nan", "inf",
         "1\\2", "1\\2\\3", "\\", "\\\\\\", "0x10", "9" * 16, "9" * 400, "2147483648",
         "99999999999999999999", "\0", "\0\0\0", "\xe9", "\xff\xfe", "%s%n", CANARY, CANARY + "\\1",
         "MONOCHROME1", "MONOCHROME2", "RGB", "PALETTE COLOR", "YBR_FULL_422", "ISO 2022 IR 87",
         "ISO_IR 192", "045Y", "000D", "999Y", "19000229", "20240102\\x", "INVERSE", "SIGMOID",
         "LINEAR_EXACT", "AP", "PA", "CHEST", "DX", "1.2.3", "1..2", "1" * 70)  # fmt: skip
IMAGE = (0x00280002, 0x00280004, 0x00280006, 0x00280008, 0x00280010, 0x00280011, 0x00280100,
         0x00280101, 0x00280102, 0x00280103, 0x00280120, 0x00281050, 0x00281051, 0x00281052,
         0x00281053, 0x00281056, 0x20500020)  # fmt: skip
TEXT_TAGS = (0x00080005, 0x00080016, 0x00080018, 0x00080020, 0x00080050, 0x00080060, 0x0008103E,
             0x00081030, 0x00100010, 0x00100020, 0x00100030, 0x00100040, 0x00101010, 0x00180015,
             0x00185101, 0x0020000D, 0x0020000E, 0x00200020, 0x00200062)  # fmt: skip
SYNTAXES = (
    dicoms.LITTLE, dicoms.IMPLICIT, dicoms.BIG, dicoms.DEFLATED,
    dicoms.JPEG, dicoms.J2K, dicoms.RLE,
    "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.203", "1.2.840.10008.1.2.4.100",
    "1.2.3", CANARY,
)  # fmt: skip


class Node:
    """An element: bytes, a list of items (lists of nodes), or the fragments of pixel data."""

    def __init__(self, tag, vr, value=b"", items=None, fragments=None):
        self.tag = tag
        self.vr = vr
        self.value = value
        self.items = items
        self.fragments = fragments
        self.length = None  # what is written instead of the true length
        self.is_undefined = fragments is not None
        self.has_end = True

    def copy(self):
        items = None if self.items is None else [[n.copy() for n in item] for item in self.items]
        fragments = None if self.fragments is None else list(self.fragments)
        made = Node(self.tag, self.vr, self.value, items, fragments)
        made.is_undefined = self.is_undefined
        return made


# --- parse and write -----------------------------------------------------------------------------


def parse(data, at, end, is_implicit, order="<"):
    """The elements of well-formed data from `at` to `end` or a delimiter; and where they end."""
    found = []
    while at + 8 <= end:
        group, element = struct.unpack_from(order + "HH", data, at)
        tag = group << 16 | element
        if tag in (ITEM_END, SEQUENCE_END):
            return found, at + 8
        vr = b"" if is_implicit else bytes(data[at + 4 : at + 6])
        if is_implicit:
            (size,) = struct.unpack_from(order + "I", data, at + 4)
            at += 8
        elif vr in LONG:
            (size,) = struct.unpack_from(order + "I", data, at + 8)
            at += 12
        else:
            (size,) = struct.unpack_from(order + "H", data, at + 6)
            at += 8
        is_sequence = vr == b"SQ" or (is_implicit and tag in (0x00283000, 0x00283010))
        if is_sequence or size == UNDEFINED:
            stop = end if size == UNDEFINED else at + size
            node = Node(tag, vr, items=[]) if is_sequence else Node(tag, vr, fragments=[])
            at = _parse_items(data, at, stop, node, is_implicit, order)
        else:
            node = Node(tag, vr, bytes(data[at : at + size]))
            at += size
        found.append(node)
    return found, at


def _parse_items(data, at, stop, node, is_implicit, order):
    while at + 8 <= stop:
        group, element, size = struct.unpack_from(order + "HHI", data, at)
        at += 8
        if group << 16 | element == SEQUENCE_END:
            return at
        if node.items is None:
            node.fragments.append(bytes(data[at : at + size]))
            at += size
            continue
        inside = stop if size == UNDEFINED else at + size
        nodes, at = parse(data, at, inside, is_implicit, order)
        node.items.append(nodes)
    return at


def write(nodes, is_implicit, order="<"):
    """Bytes of the elements, as wrong as they are told to be."""
    return b"".join(_element(node, is_implicit, order) for node in nodes)


def _element(node, is_implicit, order):
    def short(tag, size):
        return struct.pack(order + "HHI", tag >> 16, tag & 0xFFFF, size & UNDEFINED)

    if node.items is not None:
        value = b"".join(
            short(ITEM, len(inner)) + inner
            for inner in (write(item, is_implicit, order) for item in node.items)
        )
    elif node.fragments is not None:
        value = b"".join(short(ITEM, len(part)) + part for part in node.fragments)
    else:
        value = node.value
    size = UNDEFINED if node.is_undefined else len(value)
    if node.is_undefined and node.has_end:
        value += short(SEQUENCE_END, 0)
    size = size if node.length is None else node.length
    if is_implicit:
        return short(node.tag, size) + value
    head = struct.pack(order + "HH", node.tag >> 16 & 0xFFFF, node.tag & 0xFFFF) + node.vr
    if node.vr in LONG:
        return head + struct.pack(order + "HI", 0, size) + value
    return head + struct.pack(order + "H", size & 0xFFFF) + value


# --- files to begin with -------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def originals():
    """(meta nodes, nodes, is_implicit, order) of generated films in ten encodings."""
    grey = np.random.default_rng(3).integers(0, 255, (20, 24), dtype=np.uint8)
    deep = grey.astype(np.uint16) * 16
    named = dict.fromkeys(("PatientName", "PatientID", "AccessionNumber", "StudyDescription",
                           "SeriesDescription", "InstitutionName"), CANARY)  # fmt: skip
    named.update(StudyDate="20240102", PatientBirthDate="19500101", PatientSex="F")
    window = {"WindowCenter": 2000, "WindowWidth": 4000, "RescaleSlope": 1, "RescaleIntercept": 0}
    voi = {"VOILUTSequence": [lut_item(range(0, 4096, 16), 0, 12)]}
    modality = {"ModalityLUTSequence": [lut_item(range(0, 4096, 16), 0, 16)]}
    made = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.dcm"

        def add(write_file, *arguments):
            write_file(path, *arguments)
            made.append(path.read_bytes())

        wide = functools.partial(chest_dataset, deep, 12)
        add(save, wide(**named, **window))
        add(save, wide(**named, **voi, **window), dicoms.IMPLICIT)
        add(save, wide(**named, **modality, **voi))
        add(save, chest_dataset(deep.astype(">u2"), 12, **named, **window), dicoms.BIG)
        add(save, chest_dataset(grey, photometric="MONOCHROME1", **named))
        add(save, chest_dataset(np.stack([grey] * 3), **named))
        add(save_compressed, chest_dataset(grey, **named), dicoms.jpeg_bytes(grey))
        add(save_compressed, chest_dataset(grey, **named), dicoms.j2k_bytes(grey), dicoms.J2K)
        add(save_rle, wide(**named))
        made += _jpeg_ls(path, grey, named)
    return [_tree(data) for data in made]


def _jpeg_ls(path, grey, named):
    try:
        import jpeg_ls
    except ImportError:
        return []
    frame = bytes(jpeg_ls.encode_array(grey))
    save_compressed(path, chest_dataset(grey, **named), frame, "1.2.840.10008.1.2.4.80")
    return [path.read_bytes()]


def _tree(data):
    start = 144 + struct.unpack("<I", data[140:144])[0]
    meta, _ = parse(data, 132, start, False)
    syntax = next(n.value for n in meta if n.tag == SYNTAX).rstrip(b"\0").decode()
    order = ">" if syntax == dicoms.BIG else "<"
    is_implicit = syntax == dicoms.IMPLICIT
    return meta, parse(data, start, len(data), is_implicit, order)[0], is_implicit, order


# --- mutations: each changes a list of nodes ------------------------------------------------------


def _all(nodes):
    """Every list of nodes in the tree."""
    found = [nodes]
    for node in nodes:
        for item in node.items or ():
            found += _all(item)
    return found


def _some(rng, nodes):
    """A node, often one that decides how the image is read."""
    lists = [one for one in _all(nodes) if one]
    if not lists:
        return None
    chosen = rng.choice(lists)
    weighted = [n for n in chosen if n.tag in IMAGE] if rng.random() < 0.4 else []
    return rng.choice(weighted or chosen)


def _text(rng):
    return rng.choice(TEXTS).encode("latin-1")


def change_value(rng, nodes):
    node = _some(rng, nodes)
    if node is None or node.items is not None:
        return
    kind = rng.randrange(6)
    if kind == 0:
        node.value = _text(rng)
    elif kind == 1:
        node.value = struct.pack("<H", rng.choice(NUMBERS)) * rng.choice((1, 1, 1, 2, 3, 0))
    elif kind == 2:
        node.value = node.value[: rng.randrange(len(node.value) + 1)]
    elif kind == 3:
        node.value += rng.randbytes(rng.choice((1, 2, 3, 100)))
    elif kind == 4:
        node.value = rng.randbytes(rng.choice((0, 1, 2, 4, 8, 60)))
    elif node.value:
        node.value = _flipped(rng, node.value)


def change_vr(rng, nodes):
    node = _some(rng, nodes)
    if node is not None:
        node.vr = rng.choice(VRS)


def change_length(rng, nodes):
    node = _some(rng, nodes)
    if node is not None:
        size = len(node.value)
        near = (size - 1, size + 1, size + 2, size // 2, UNDEFINED)
        node.length = max(0, rng.choice(LENGTHS + near + near))


def change_order(rng, nodes):
    chosen = rng.choice(_all(nodes))
    if not chosen:
        return
    kind = rng.randrange(4)
    place = rng.randrange(len(chosen))
    if kind == 0:
        del chosen[place]
    elif kind == 1:
        chosen.insert(rng.randrange(len(chosen) + 1), chosen[place].copy())
    elif kind == 2:
        rng.shuffle(chosen)
    else:
        chosen[place].tag = rng.choice((*IMAGE, *TEXT_TAGS, PIXELS, 0, ITEM, ITEM_END, 0x00090010,
                                        SEQUENCE_END, 0xFFFFFFFF, SYNTAX))  # fmt: skip


def change_image(rng, nodes):
    tag = rng.choice(IMAGE)
    nodes[:] = [node for node in nodes if node.tag != tag]
    is_text = tag in (0x00280004, 0x00280008, 0x00281050, 0x00281051, 0x00281052, 0x00281053,
                      0x00281056, 0x20500020)  # fmt: skip
    value = _text(rng) if is_text else struct.pack("<H", rng.choice(NUMBERS))
    if value or rng.random() < 0.5:
        nodes.append(Node(tag, b"DS" if is_text else b"US", value + b" " * (len(value) % 2)))
    nodes.sort(key=lambda node: node.tag)


def change_text(rng, nodes):
    tag = rng.choice(TEXT_TAGS)
    nodes[:] = [node for node in nodes if node.tag != tag]
    value = _text(rng)
    nodes.append(Node(tag, rng.choice((b"LO", b"CS", b"UI", b"PN", b"DA")), value))
    nodes.sort(key=lambda node: node.tag)


def change_lut(rng, nodes):
    tag = rng.choice((0x00283000, 0x00283010))
    numbers = [rng.choice(NUMBERS) for _ in range(rng.choice((3, 3, 3, 3, 2, 4, 0)))]
    if rng.random() < 0.5 and len(numbers) == 3:
        numbers = [rng.choice((0, 2, 256)), rng.choice((0, 1, 32768)), rng.choice((8, 12, 16, 17))]
    entries = rng.choice((0, 1, 2, 255, 256, 257, 300))
    data = rng.randbytes(entries) * rng.choice((1, 2)) + rng.choice((b"", b"", b"\0"))
    descriptor = struct.pack(f"<{len(numbers)}H", *numbers)
    item = [Node(0x00283002, rng.choice((b"US", b"SS", b"UN", b"OW")), descriptor),
            Node(0x00283006, rng.choice((b"US", b"OW", b"SS", b"OB", b"UN")), data)]  # fmt: skip
    if rng.random() < 0.2:
        del item[rng.randrange(2)]
    items = rng.choice(([item], [item], [item, item], [], [[]]))
    nodes[:] = [node for node in nodes if node.tag != tag]
    nodes.append(Node(tag, b"SQ", items=items))
    nodes.sort(key=lambda node: node.tag)


def nest(rng, nodes):
    """Sequences in sequences; built from the inside, since the depth is more than a stack has."""
    is_implicit = rng.random() < 0.3
    inner = write([Node(0x00100010, b"PN", CANARY.encode())], is_implicit)
    tag = rng.choice((0x00081140, 0x00283010, 0x00400275))
    for _ in range(rng.choice((1, 2, 10, 100, 400, 1500))):
        value = struct.pack("<HHI", 0xFFFE, 0xE000, len(inner)) + inner
        inner = write([Node(tag, b"SQ", value)], is_implicit)
    nodes.append(Node(tag, b"SQ", value))
    nodes.sort(key=lambda node: node.tag)


def change_sequence(rng, nodes):
    sequences = [n for group in _all(nodes) for n in group if n.items is not None]
    if not sequences:
        return change_lut(rng, nodes)
    node = rng.choice(sequences)
    kind = rng.randrange(5)
    if kind == 0:
        node.is_undefined = True
        node.has_end = rng.random() < 0.5
    elif kind == 1:
        node.items = node.items * rng.choice((0, 2, 50))
    elif kind == 2:
        node.items, node.value = None, rng.randbytes(40)
    elif kind == 3:
        node.items = None
        node.value = struct.pack("<HHI", 0xFFFE, 0xE000, rng.choice((*LENGTHS, UNDEFINED)))
    else:
        node.items.append([Node(ITEM_END, b"", b"")])
    return None


def change_fragments(rng, nodes):  # noqa: C901 - one branch a damage
    node = next((n for n in nodes if n.tag == PIXELS), None)
    if node is None:
        return
    if node.fragments is None:
        if rng.random() < 0.3:
            node.fragments, node.is_undefined = [b"", node.value], True
        else:
            node.value = node.value[: rng.randrange(len(node.value) + 1)]
        return
    parts, kind = node.fragments, rng.randrange(8)
    place = rng.randrange(len(parts)) if parts else 0
    if kind == 0 and parts:
        parts[place] = _flipped(rng, parts[place])
    elif kind == 1 and parts:
        parts[place] = parts[place][: rng.randrange(len(parts[place]) + 1)]
    elif kind == 2:
        parts[:1] = [struct.pack("<2I", rng.choice(LENGTHS), rng.choice(LENGTHS))]
    elif kind == 3 and parts:
        cut = rng.randrange(len(parts[-1]) + 1)
        parts[-1:] = [parts[-1][:cut], parts[-1][cut:]]
    elif kind == 4:
        parts.insert(place, rng.randbytes(rng.choice((0, 1, 2, 64))))
    elif kind == 5:
        node.has_end = False
    elif kind == 6:
        parts *= rng.choice((0, 2, 30))
    elif parts and len(parts[-1]) > 40:
        parts[-1] = _codestream(rng, parts[-1])


def _codestream(rng, data):
    """Change the numbers behind a marker of JPEG, JPEG-LS or JPEG 2000, or RLE's header."""
    markers = [i for i in range(len(data) - 12) if data[i] == 0xFF and data[i + 1] not in (0, 0xFF)]
    at = rng.choice(markers[:12]) if markers else 0
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        changed[min(len(data) - 1, at + rng.randrange(1, 24))] = rng.choice((0, 1, 127, 128, 255))
    return bytes(changed)


def _flipped(rng, data):
    if not data:
        return data
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


DATA = (change_value, change_vr, change_length, change_order, change_image, change_text, change_lut,
        nest, change_sequence, change_fragments)  # fmt: skip
WEIGHTS = (4, 2, 3, 2, 4, 2, 3, 0.3, 2, 4)


def change_meta(rng, nodes):
    syntax = next((node for node in nodes if node.tag == SYNTAX), None)
    if syntax is not None and rng.random() < 0.7:
        syntax.value = rng.choice(SYNTAXES).encode()
        syntax.value += b"\0" * (len(syntax.value) % 2)
        return
    rng.choice((change_value, change_vr, change_length, change_order))(rng, nodes)


def mutated(seed, number):
    """The file of a number: bytes, and the names of what was done to it."""
    rng = random.Random(f"{seed}:{number}")
    meta, nodes, is_implicit, order = rng.choice(originals())
    meta, nodes = [node.copy() for node in meta], [node.copy() for node in nodes]
    names = []
    if rng.random() < 0.15:
        change_meta(rng, meta)
        names.append("change_meta")
    for change in rng.choices(DATA, WEIGHTS, k=rng.choice((1, 1, 1, 2, 3, 6))):
        change(rng, nodes)
        names.append(change.__name__)
    if rng.random() < 0.03:
        is_implicit = not is_implicit
        names.append("other_encoding")
    data = bytes(128) + b"DICM" + write(meta, False) + write(nodes, is_implicit, order)
    if rng.random() < 0.1:
        data = data[: rng.randrange(len(data) + 1)]
        names.append("cut")
    if rng.random() < 0.1:
        data = _flipped(rng, data)
        names.append("flipped")
    return data, names
