"""The types of numbers in files, in NumPy and in torch."""

from typing import NamedTuple


class Number(NamedTuple):
    """A type of numbers.

    bits    the NumPy type that holds it: its own, or where NumPy has none the unsigned integer of its bits
    torch   its name in torch;   size_bytes   of one number
    """

    bits: str
    torch: str
    size_bytes: int


# as safetensors and GGUF call it -> what it is
NUMBERS = {
    "F64": Number("float64", "float64", 8), "F32": Number("float32", "float32", 4),
    "F16": Number("float16", "float16", 2), "BF16": Number("uint16", "bfloat16", 2),
    "I64": Number("int64", "int64", 8), "I32": Number("int32", "int32", 4), "I16": Number("int16", "int16", 2),
    "I8": Number("int8", "int8", 1), "U8": Number("uint8", "uint8", 1), "BOOL": Number("bool", "bool", 1),
    "F8_E4M3": Number("uint8", "float8_e4m3fn", 1), "F8_E5M2": Number("uint8", "float8_e5m2", 1),
}  # fmt: skip
WEIGHTS = ("F64", "F32", "F16", "BF16")  # those that mean something without scales
