"""C initialisers of the records that the generated step table is made of."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Union

from deploy_jetson.kernels.plan.tensors import Buffer

CValue = Union[int, float, str, Mapping[str, "CValue"], "CArray", "CPointer"]


class CArray(NamedTuple):
    """A constant array of structs."""

    type: str  # C type of one element
    items: Sequence[Mapping[str, CValue]]  # fields of every element


class CPointer(NamedTuple):
    """The address of a constant struct."""

    type: str  # C type of the struct
    fields: Mapping[str, CValue]  # its fields


def blocked(buffer: Buffer) -> dict[str, CValue]:
    """Fields of a C `blocked` tensor."""
    return {
        "base": buffer.base,
        "block": buffer.block,
        "row": buffer.row,
        "blocks": buffer.blocks,
        "height": buffer.height,
        "width": buffer.width,
        "halo": buffer.halo,
    }


def initialiser(value: CValue) -> str:
    """C text of a value; a string is taken as an expression, a mapping as designated fields.

    Structs that others point to become compound literals, which at file scope are static.
    """
    if isinstance(value, CArray):
        return f"(const {value.type}[]){{{', '.join(map(initialiser, value.items))}}}"
    if isinstance(value, CPointer):
        return f"&(const {value.type}){initialiser(value.fields)}"
    if isinstance(value, float):
        return f"{value!r}f"
    if isinstance(value, int | str):
        return str(value)
    fields = (f".{name} = {initialiser(item)}" for name, item in value.items())
    return "{" + ", ".join(fields) + "}"


def string_literal(text: str) -> str:
    """A C string; bytes outside plain ASCII as octal escapes."""
    safe = set(range(0x20, 0x7F)) - {0x22, 0x5C, 0x3F}
    return '"' + "".join(chr(b) if b in safe else f"\\{b:03o}" for b in text.encode()) + '"'
