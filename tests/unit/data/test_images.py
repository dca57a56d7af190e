"""Images are JPEG or PNG, and whole: what decoders fill in without a word is noticed."""

import io
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from m2mkd.data.images import MOST_PIXELS, BadImageError, decoded, opened
from m2mkd.data.whole import MOST_SCANS, whole_image
from tests.conftest import ROOT

NOISE = np.random.default_rng(0).integers(0, 256, (80, 96, 3), dtype=np.uint8)
SMOOTH = np.linspace(0, 255, 80 * 96 * 3).reshape(80, 96, 3).astype(np.uint8)
JPEGS = {
    "baseline": {},
    "restarts": {"restart_marker_rows": 1},
    "progressive": {"progressive": True},
    "progressive without subsampling": {"progressive": True, "subsampling": 0},
    "progressive with restarts": {"progressive": True, "restart_marker_rows": 1},
}


def saved(pixels: np.ndarray, form: str = "JPEG", mode: str = "RGB", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


def jpeg(pixels: np.ndarray, kind: str, mode: str = "RGB") -> bytes:
    return saved(pixels, mode=mode, quality=95, **JPEGS[kind])


def test_one_place_alone_opens_images():
    """Any other would have every decoder that its library knows."""
    opens = re.compile(r"Image\.open\(|\bimread\(|\bimageio\b|\bcv2\b|decode_(image|jpeg|png)")
    package = ROOT / "m2mkd"
    assert [path.relative_to(package).as_posix() for path in package.rglob("*.py") if opens.search(path.read_text())] == ["data/images.py"]


@pytest.mark.parametrize("form", ["GIF", "TIFF", "ICO", "WEBP", "BMP", "PPM", "EPS", "TGA", "PCX", "JPEG2000", "DDS", "SGI", "PDF"])
def test_other_formats_are_refused_whatever_their_name(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An EPS would be handed to Ghostscript, another program."""
    called = tmp_path / "called"
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {called}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # so that it is looked for again
    content = saved(NOISE, form)
    for read in (opened, decoded, lambda found: whole_image(found, 64)):
        with pytest.raises(BadImageError, match=r"is not a complete image \(not of the formats JPEG and PNG\)"):
            read(content)
    assert not called.exists()


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("pixels", [NOISE, SMOOTH, NOISE[:8, :8], np.full_like(NOISE, 128)], ids=["noise", "smooth", "tiny", "grey"])
def test_a_whole_jpeg_is_the_same_as_opened(kind: str, mode: str, pixels: np.ndarray):
    content = jpeg(pixels, kind, mode)
    np.testing.assert_array_equal(np.asarray(whole_image(content, 64)), decoded(content))
    np.testing.assert_array_equal(np.asarray(whole_image(content + b"what a camera adds", 64)), decoded(content))


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("pixels", [NOISE, SMOOTH], ids=["noise", "smooth"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_a_jpeg_that_is_cut_is_refused(kind: str, mode: str, pixels: np.ndarray, share: float):
    """With the marker of the end behind it, too, where a decoder says nothing."""
    content = jpeg(pixels, kind, mode)
    cut = content[: int(share * len(content))]
    assert pixels is SMOOTH or opened(cut + b"\xff\xd9"), "nothing is said by the decoder"
    for end in (b"", b"\xff\xd9"):
        with pytest.raises(BadImageError, match="is not a complete image"):
            whole_image(cut + end, 64)


@pytest.mark.parametrize("kept", range(1, 10))
def test_a_progressive_jpeg_without_its_last_scans_is_refused(kept: int):
    content = jpeg(NOISE, "progressive")
    starts = [found.start() for found in re.finditer(rb"\xff\xda", content)]
    assert len(starts) == 10
    # Tables of codes stand before the scan that needs them, and are of no use without it.
    with pytest.raises(BadImageError, match=r"is not a complete image \(some of its scans are missing\)"):
        whole_image(content[: starts[kept]] + b"\xff\xd9", 64)


def test_a_row_of_blocks_may_lack_its_end():
    """As in some published photographs."""
    content = saved(np.random.default_rng(1).integers(0, 256, (512, 64, 3), dtype=np.uint8), quality=95)
    assert whole_image(content[:-60] + b"\xff\xd9", 64)


def test_a_jpeg_of_endless_scans_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch):
    content = jpeg(SMOOTH, "progressive")
    last = content[content.rindex(b"\xff\xda") : -2]
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("it is decoded"))
    with pytest.raises(BadImageError, match=f"has more than {MOST_SCANS} scans"):
        whole_image(content[:-2] + last * MOST_SCANS + b"\xff\xd9", 64)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, rows: int, colour: int = 2, interlaced: bool = False) -> bytes:
    """A PNG that holds so many of its rows."""
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    data = zlib.compress(bytes(rows * (1 + width * channels)))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, interlaced))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "1"])
def test_a_whole_png_is_the_same_as_opened(mode: str):
    content = saved(NOISE, "PNG", mode)
    np.testing.assert_array_equal(np.asarray(whole_image(content, 64)), decoded(content))


@pytest.mark.parametrize("colour", [0, 2, 4, 6])
def test_a_png_of_fewer_rows_than_it_claims_is_refused(colour: int):
    assert opened(png(40, 64, 32, colour)), "nothing is said by the decoder"
    assert whole_image(png(40, 64, 64, colour), 64)
    with pytest.raises(BadImageError, match="is not a complete image"):
        whole_image(png(40, 64, 63, colour), 64)


def test_an_interlaced_png():
    """Of 8 x 8 pixels it has passes of 1, 1, 2, 4, 8, 16 and 32 pixels in 15 rows."""
    content = png(8, 8, 0, interlaced=True)
    whole, short = (zlib.compress(bytes(15 + 3 * pixels)) for pixels in (64, 63))
    for data in (whole, short):
        made = content.replace(chunk(b"IDAT", zlib.compress(b"")), chunk(b"IDAT", data))
        if data == whole:
            assert whole_image(made, 8).size == (8, 8)
        else:
            with pytest.raises(BadImageError, match="is not a complete image"):
                whole_image(made, 8)


def test_flipped_bits_of_a_png_are_noticed():
    content = saved(NOISE, "PNG")
    for position in range(16, len(content) - 12, 97):
        flipped = bytearray(content)
        flipped[position] ^= 4
        with pytest.raises(BadImageError):
            whole_image(bytes(flipped), 64)


def test_more_pixels_than_a_photograph_has(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("it is decoded"))
    with pytest.raises(BadImageError, match=rf"{MOST_PIXELS // 1000 + 1} x 1000 pixels are more than a photograph has"):
        opened(png(MOST_PIXELS // 1000 + 1, 1000, 0))


def test_an_image_that_would_become_vast_when_it_is_resized():
    """Its shorter side becomes 256 pixels long, and its longer side as many times that as it has pixels."""
    content = saved(np.zeros((1, 20_000, 3), np.uint8))
    with pytest.raises(BadImageError, match="has 20000 x 1 pixels, too narrow to be resized to 224"):
        whole_image(content, 224)
    assert whole_image(saved(np.zeros((40, 2_000, 3), np.uint8)), 224).size == (2_000, 40)
