"""An ICC profile of the primaries and the curve that a picture declares by codes, so that one way leads to sRGB."""

import struct

import numpy as np
from numpy.typing import NDArray

# ISO/IEC 23091-2: red, green and blue in CIE's x and y, of the sets wider than sRGB, whose white is D65.
_PRIMARIES = {
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
_SRGB_CURVE, _GAMMA_22 = 13, 4
# ICC.1: parametric curves of types 3 (sRGB's) and 0 (a power).
_CURVES = {_SRGB_CURVE: (3, (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)), _GAMMA_22: (0, (2.2,))}
_D65, _D50 = np.array([0.95047, 1, 1.08883]), np.array([0.9642, 1, 0.8249])
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_VERSION_4 = 0x04000000
_HEADER_BYTES, _TABLE_ROW_BYTES = 128, 12


def declared_profile(primaries: int, transfer: int) -> bytes | None:
    """The profile; None where nothing is to be converted, or where the curve is HDR's or a camera's."""
    if primaries not in _PRIMARIES or transfer not in _CURVES:
        return None
    corners = np.array([(x / y, 1, (1 - x - y) / y) for x, y in _PRIMARIES[primaries]]).T
    columns = _to_d50() @ (corners * np.linalg.solve(corners, _D65))
    kind, parameters = _CURVES[transfer]
    curve = b"para\0\0\0\0" + struct.pack(">HH", kind, 0) + _fixed(np.array(parameters))
    tags = {b"wtpt": b"XYZ \0\0\0\0" + _fixed(_D50)}
    for color, column in zip((b"r", b"g", b"b"), columns.T, strict=True):
        tags |= {color + b"XYZ": b"XYZ \0\0\0\0" + _fixed(column), color + b"TRC": curve}
    start = _HEADER_BYTES + 4 + _TABLE_ROW_BYTES * len(tags)
    table, data = struct.pack(">I", len(tags)), b""
    for name, body in tags.items():
        table += struct.pack(">4sII", name, start + len(data), len(body))
        data += body
    size = start + len(data)
    head = struct.pack(">I4xI4s4s4s12x4s", size, _VERSION_4, b"mntr", b"RGB ", b"XYZ ", b"acsp").ljust(68, b"\0")
    return (head + _fixed(_D50)).ljust(_HEADER_BYTES, b"\0") + table + data


def _to_d50() -> NDArray[np.float64]:
    scale = np.diag((_BRADFORD @ _D50) / (_BRADFORD @ _D65))
    return np.linalg.inv(_BRADFORD) @ scale @ _BRADFORD


def _fixed(values: NDArray[np.float64]) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)
