"""Completeness check of images: if the data end early, decoders silently leave the rest grey or without its details."""

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from m2mkd.data.images import BadImageError, opened, require_shape

MOST_SCANS = 100
"""Maximum passes over the pixels of a JPEG; a tiny file may ask for thousands, each of which takes time. Encoders write about ten."""
TOLERATED_ROWS, TOLERATED_SHARE = 16, 16
"""Rows that may be missing at the end, and the inverse of their maximum share: some published photographs lack a block of the last row."""
FILL = np.random.default_rng(0).integers(1, 255, 1024, dtype=np.uint8).tobytes()
"""Filler that a decoder takes for more data of a scan: none of its bytes begins a marker."""

MARKER = re.compile(rb"\xff+([^\x00\xff])")
END_OF_SCAN = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
START_OF_SCAN, END = 0xDA, 0xD9
WITHOUT_CONTENT = {0x01, *range(0xD0, 0xD9)}
FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Channels by the colour type of a PNG."""
INTERLACED = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column and row, and their steps, of the passes of an interlaced PNG."""
INFLATED_AT_ONCE = 1 << 20


def whole_image(content: bytes, side: int) -> Image.Image:
    """Decode an untested image, and check that it is complete.

    Parameters
    ----------
    content
        Content of the file.
    side
        Size in pixels at which it will be measured.

    Raises
    ------
    BadImageError
        See `m2mkd.data.images.opened`; also if rows or details are missing, or it is too narrow to be measured.
    """
    try:
        jpeg = None if content.startswith(PNG_SIGNATURE) else _Jpeg.read(content)
        if jpeg and len(jpeg.scans) > MOST_SCANS:
            raise BadImageError(f"has more than {MOST_SCANS} scans, as no photograph has")
        image = opened(content)
        require_shape(image, side)
        if jpeg:
            jpeg.check(content, image)
        else:
            _check_png(content)
    except BadImageError:
        raise
    except Exception as error:  # a damaged file may have arbitrary markers
        raise BadImageError(f"is not a complete image ({type(error).__name__}: {error})") from None
    return image


@dataclass
class _Jpeg:
    """Markers of a JPEG."""

    progressive: bool = False
    components: bytes = b""
    scans: list[bytes] = field(default_factory=list)
    """Header of each scan."""
    end: int | None = None
    """Position of the end marker."""

    @classmethod
    def read(cls, content: bytes) -> "_Jpeg":
        jpeg, position = cls(), 2
        while len(jpeg.scans) <= MOST_SCANS and (marker := MARKER.search(content, position)):
            kind, position = marker[1][0], marker.end()
            if kind == END:
                jpeg.end = marker.start()
                break
            if kind in WITHOUT_CONTENT:
                continue
            length = int.from_bytes(content[position : position + 2])
            segment = content[position + 2 : position + length]
            position += max(length, 2)
            if kind in FRAMES:
                jpeg.progressive, jpeg.components = kind in PROGRESSIVE, segment[6::3]
            elif kind == START_OF_SCAN:
                jpeg.scans.append(segment)
                after = END_OF_SCAN.search(content, position)
                position = after.start() if after else len(content)
        return jpeg

    def check(self, content: bytes, image: Image.Image) -> None:
        """Refuse an image with missing scans, or missing rows or details in the last scan."""
        if not self._covered():
            raise BadImageError("is not a complete image (some of its scans are missing)")
        # A decoder leaves parts without data grey, so the last pixel of most images shows that they are complete.
        suspicious = self.progressive or len(self.components) == 4 or image.getpixel((image.width - 1, image.height - 1)) == (128, 128, 128)
        if self.end is None or not suspicious:
            return
        # Data after the last block of a complete image are ignored; in any other image they are taken for the missing blocks.
        continued = np.asarray(opened(content[: self.end] + FILL + content[self.end :]))
        rows = np.flatnonzero((continued != np.asarray(image)).any(axis=(1, 2)))
        if len(rows) and rows[0] < image.height - min(TOLERATED_ROWS, image.height // TOLERATED_SHARE):
            raise BadImageError(f"is not a complete image (its data end at row {rows[0]} of {image.height})")

    def _covered(self) -> bool:
        """True if the scans contain every coefficient of every component down to its last bit."""
        missing = {component: np.ones(64, bool) for component in self.components}
        for scan in self.scans:
            count = scan[0] if scan else 0
            if len(scan) < 4 + 2 * count:
                return False
            first, last, bits = scan[1 + 2 * count :][:3]
            for component in scan[1 : 1 + 2 * count : 2]:
                if component in missing:
                    missing[component][first : last + 1] = self.progressive and bits & 15
        return not any(coefficients.any() for coefficients in missing.values())


def _check_png(content: bytes) -> None:
    """Refuse a PNG that has fewer rows than its header says, or damaged chunks."""
    size = left = 0
    data = zlib.decompressobj()
    for kind, chunk in _chunks(content):
        if kind == b"IHDR":
            size = left = _png_bytes(chunk)
        elif kind == b"IDAT":
            rest = chunk
            while rest and left > 0:
                left -= len(data.decompress(rest, INFLATED_AT_ONCE))
                rest = data.unconsumed_tail
    if left > 0:
        raise BadImageError(f"is not a complete image (its data end after {size - left} of {size} bytes)")


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Critical chunks of a PNG."""
    position = len(PNG_SIGNATURE)
    while position + 12 <= len(content):
        end = position + 8 + int.from_bytes(content[position : position + 4])
        kind = content[position + 4 : position + 8]
        if kind[:1].isupper():
            if zlib.crc32(content[position + 4 : end]) != int.from_bytes(content[end : end + 4]):
                raise BadImageError(f"is not a complete image (its chunk {kind.decode('latin-1')} is damaged)")
            yield kind, content[position + 8 : end]
        position = end + 4


def _png_bytes(header: bytes) -> int:
    """Bytes of all rows, each with its filter byte, before compression."""
    width, height = int.from_bytes(header[:4]), int.from_bytes(header[4:8])
    bits = header[8] * CHANNELS[header[9]]
    passes = INTERLACED if header[12] else ((0, 0, 1, 1),)
    sizes = ((-(-(width - left) // across), -(-(height - top) // down)) for left, top, across, down in passes)
    return sum(rows * (1 + (columns * bits + 7) // 8) for columns, rows in sizes if columns > 0)
