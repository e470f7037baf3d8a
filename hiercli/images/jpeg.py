"""Kinds of JPEG that Pillow takes for damaged files.

ITU-T T.81, table B.1; ITU-T T.87 for JPEG-LS.
"""

_JPEG_LS, _NO_LENGTH = 0xF7, frozenset({0x01, *range(0xD0, 0xD9)})
_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
_LOSSLESS = frozenset({0xC3, 0xC7, 0xCB, 0xCF})
_MOST_SEGMENTS = 10_000


def unusual_process(content: bytes) -> str:
    """What kind of JPEG a file is, in words; empty where it is an ordinary one.

    Examples:
        >>> unusual_process(bytes.fromhex("ffd8ffc3000b08000100010111 00"))
        'a lossless JPEG image'
    """
    at = 2
    for _ in range(_MOST_SEGMENTS):
        if at + 5 > len(content) or content[at] != 0xFF:
            break
        marker = content[at + 1]
        if marker == 0xFF or marker in _NO_LENGTH:
            at += 1 if marker == 0xFF else 2
            continue
        if marker == _JPEG_LS:
            return "a JPEG-LS image"
        if marker in _LOSSLESS:
            return "a lossless JPEG image"
        if marker in _FRAMES:
            bits = content[at + 4]
            return f"a JPEG image of {bits} bits" if bits in (12, 16) else ""
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return ""
