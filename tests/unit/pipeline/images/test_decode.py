"""Decoding image files of all formats, damaged ones, and their perceptual hash."""

import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from pipeline.images.decode import UnreadableImage, decode, is_nearly_black, perceptual_hash
from pipeline.images.examine import examine
from pipeline.images.sources import open_sources

RNG = np.random.default_rng(0)
QUADRANTS = np.zeros((16, 24, 3), np.uint8)
QUADRANTS[:8, :12], QUADRANTS[:8, 12:], QUADRANTS[8:, :12] = (250, 10, 10), (10, 250, 10), (10, 10, 250)


def encode(image, file_format="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def pixels_of(data):
    image = decode(data)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def photograph(height=96, width=128):
    """Both smooth and detailed, like a photograph."""
    coarse = Image.fromarray(RNG.integers(0, 256, (9, 12, 3), np.uint8))
    coarse = coarse.resize((width, height), Image.BICUBIC)
    noise = RNG.integers(-10, 11, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(coarse).astype(int) + noise, 0, 255).astype(np.uint8))


@pytest.mark.parametrize(
    ("file_format", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("PPM", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("GIF", {}, 0),
        ("JPEG", {"quality": 95, "subsampling": 0}, 6),  # flat squares: only rounding of YCbCr and ringing
        ("JPEG", {"quality": 95, "subsampling": 0, "progressive": True}, 6),
    ],
)
def test_formats_give_their_pixels(file_format, options, tolerance):
    found = pixels_of(encode(Image.fromarray(QUADRANTS), file_format, **options))
    assert np.abs(found - QUADRANTS).max() <= tolerance


def test_only_the_first_frame_of_an_animation_is_decoded():
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    for file_format in ("GIF", "PNG", "TIFF"):
        data = encode(frames[0], file_format, save_all=True, append_images=frames[1:])
        assert pixels_of(data).tolist() == np.asarray(frames[0]).tolist()


def test_gray_and_bilevel():
    gray = RNG.integers(0, 256, (5, 7), np.uint8)
    assert np.array_equal(pixels_of(encode(Image.fromarray(gray))), np.repeat(gray[..., None], 3, axis=2))
    bilevel = Image.fromarray(gray).convert("1")
    assert np.array_equal(pixels_of(encode(bilevel))[..., 0], np.asarray(bilevel) * 255)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "PPM"])
def test_16_bit_gray_is_scaled_not_clipped(file_format):
    ramp = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    found = pixels_of(encode(Image.fromarray(ramp), file_format))
    assert np.array_equal(found, np.repeat(np.arange(256).reshape(16, 16, 1), 3, axis=2))
    edges = np.array([[128, 129, 65406, 65407]], np.uint16)  # 0.498, 0.502, 254.498 and 254.502 of 255
    assert pixels_of(encode(Image.fromarray(edges), file_format))[0, :, 0].tolist() == [0, 1, 254, 255]


def test_gray_beyond_16_bits_and_floats_are_refused_with_a_reason():
    deep = np.full((4, 4), 70_000, np.int32)
    with pytest.raises(UnreadableImage, match="16 bits"):
        decode(encode(Image.fromarray(deep), "TIFF"))
    with pytest.raises(UnreadableImage, match="floating-point"):
        decode(encode(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"))


def test_palette_without_and_with_transparency():
    palette = Image.fromarray(np.array([[0, 1], [2, 0]], np.uint8), "P")
    palette.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    colors = np.array([[200, 0, 0], [0, 200, 0], [0, 0, 200]])
    assert np.array_equal(pixels_of(encode(palette)), colors[[[0, 1], [2, 0]]])
    one_index = pixels_of(encode(palette, transparency=1))
    assert one_index[0, 1].tolist() == [255, 255, 255]
    assert one_index[1, 0].tolist() == [0, 0, 200]
    assert pixels_of(encode(palette, transparency=bytes([0, 255, 128])))[:, 0].tolist() == [
        [255, 255, 255],
        [127, 127, 227],
    ]


@pytest.mark.parametrize(("alpha", "expected"), [(0, 255), (255, 100), (51, 224)])  # 224 = 255 - 0.2 * 155
def test_transparency_is_composited_onto_white(alpha, expected):
    for image in (Image.new("RGBA", (3, 2), (100, 100, 100, alpha)), Image.new("LA", (3, 2), (100, alpha))):
        for file_format in ("PNG", "WEBP"):
            options = {"lossless": True, "exact": True} if file_format == "WEBP" else {}
            assert (pixels_of(encode(image, file_format, **options)) == expected).all()


def test_transparent_color_of_an_rgb_png():
    assert (pixels_of(encode(Image.fromarray(QUADRANTS), transparency=(0, 0, 0)))[12, 20] == 255).all()


def png_of_16_bits(pixels, transparent=None):
    """Encode uint16 gray (h, w) or RGB (h, w, 3), which PIL cannot write as RGB. transparent: the value of tRNS."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, 0 if pixels.ndim == 2 else 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    trns = b"" if transparent is None else chunk(b"tRNS", np.array(transparent, ">u2").tobytes())
    body = chunk(b"IHDR", header) + trns + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_a_16_bit_png_keeps_its_transparent_value():
    gray = np.full((3, 4), 40_000, np.uint16)
    gray[1, 2] = 0x1234
    found = pixels_of(png_of_16_bits(gray, [0x1234]))
    assert found[1, 2].tolist() == [255, 255, 255]
    assert (found.reshape(-1, 3) == 255).all(axis=1).sum() == 1
    assert pixels_of(png_of_16_bits(gray))[1, 2].tolist() == [18, 18, 18]
    color = np.repeat(gray[..., None], 3, axis=2)
    color[1, 2] = (0x1234, 0x5678, 0x9ABC)
    found = pixels_of(png_of_16_bits(color, [0x1234, 0x5678, 0x9ABC]))
    assert found[1, 2].tolist() == [255, 255, 255]
    assert (found.reshape(-1, 3) == 255).all(axis=1).sum() == 1


@pytest.mark.parametrize("channels", [1, 3])
def test_12_bits_in_a_16_bit_file_are_noticed(channels):
    twelve = RNG.integers(0, 4096, (5, 6), np.uint16)
    dark, usual = (
        png_of_16_bits(values if channels == 1 else np.repeat(values[..., None], 3, axis=2))
        for values in (twelve, twelve * 16)
    )
    assert is_nearly_black(dark)
    assert not is_nearly_black(usual)
    assert not is_nearly_black(encode(Image.fromarray(np.zeros((4, 4, 3), np.uint8))))
    assert is_nearly_black(encode(Image.fromarray(twelve), "TIFF"))


def test_an_examined_image_tells_12_bits_in_a_16_bit_file(tmp_path):
    (tmp_path / "1.png").write_bytes(png_of_16_bits(np.full((4, 4), 4095, np.uint16)))
    (tmp_path / "2.png").write_bytes(png_of_16_bits(np.full((4, 4), 4096, np.uint16)))
    source = open_sources(tmp_path)["train"]
    assert [examine(source, row).nearly_black for row in (0, 1)] == [True, False]


def test_a_png_with_large_text_or_profile_is_sound():
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "x" * 3_000_000, zip=True)
    assert np.array_equal(pixels_of(encode(Image.fromarray(QUADRANTS), pnginfo=text)), QUADRANTS)
    assert np.array_equal(
        pixels_of(encode(Image.fromarray(QUADRANTS), icc_profile=bytes(2_000_000))), QUADRANTS
    )


def test_avif_is_decoded_whatever_the_file_is_called():
    assert (
        np.abs(pixels_of(encode(Image.new("RGB", (16, 16), (200, 10, 10)), "AVIF")) - [200, 10, 10]).max() < 8
    )


def test_cmyk_jpeg_as_adobe_writes_it_inverted():
    data = encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    assert b"Adobe" in data
    assert np.abs(pixels_of(data) - [255, 0, 0]).max() <= 4  # rounding of JPEG


UPRIGHT = {  # EXIF 2.3, tag 0x0112: how the stored pixels have to be transformed
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_exif_orientation(orientation, file_format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(file_format, {})
    found = pixels_of(encode(Image.fromarray(QUADRANTS), file_format, exif=exif, **options))
    expected = UPRIGHT[orientation](QUADRANTS)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= (6 if file_format == "JPEG" else 0)


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0"])
def test_broken_exif_keeps_the_image_and_gives_no_warning(exif):
    data = encode(Image.fromarray(QUADRANTS), "JPEG", quality=95, subsampling=0, exif=exif)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert np.abs(pixels_of(data) - QUADRANTS).max() <= 6
    assert not caught


def test_no_warning_escapes_from_threads():
    data = encode(Image.fromarray(QUADRANTS), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
    with ThreadPoolExecutor(8) as pool:
        assert {image.size for image in pool.map(decode, [data] * 200)} == {(24, 16)}


@pytest.mark.parametrize(("width", "height"), [(1, 1), (8000, 1), (1, 8000), (8000, 60)])
def test_any_size_is_kept(width, height):
    for file_format in ("PNG", "JPEG"):
        assert decode(encode(Image.new("RGB", (width, height)), file_format)).size == (width, height)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_truncated_files_are_unreadable(file_format):
    data = encode(photograph(), file_format)
    for kept in (1, 10, len(data) // 2, len(data) * 9 // 10):
        with pytest.raises(UnreadableImage, match=r"."):
            decode(data[:kept])


def png_header(width, height):
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    end = b"IEND"
    chunks = b"".join(
        struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
        for body in (header, end)
    )
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_decompression_bombs_are_refused_by_their_size():
    with pytest.raises(UnreadableImage, match="400000000 pixels"):
        decode(png_header(20_000, 20_000))


def test_a_large_image_is_no_bomb_and_gives_no_warning():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(UnreadableImage) as raised:  # its pixels are missing
            decode(png_header(13_000, 13_000))
    assert "bomb" not in str(raised.value)
    assert not caught


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"not an image file", "not an image"),
        (bytes(1000), "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not an image"),  # never to Ghostscript
    ],
)
def test_other_files_are_refused_with_a_reason(data, reason):
    with pytest.raises(UnreadableImage, match=reason):
        decode(data)


WHOLE = [encode(photograph(20, 24), name) for name in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")]


@settings(max_examples=150, deadline=None)
@given(
    start=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM", b"II*\0", b"P6 "]),
    rest=st.binary(max_size=200),
)
@example(start=b"", rest=b"BM" + bytes(60))
def test_arbitrary_bytes_decode_or_are_unreadable(start, rest):
    check_decodes_or_refuses(start + rest)


@settings(max_examples=150, deadline=None)
@given(
    data=st.sampled_from(WHOLE),
    changes=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=20),
)
def test_flipped_bytes_decode_or_are_unreadable(data, changes):
    changed = bytearray(data)
    for place, value in changes:
        changed[int(place * len(data))] = value
    check_decodes_or_refuses(bytes(changed))


def check_decodes_or_refuses(data):
    try:
        image = decode(data)
    except UnreadableImage as error:
        reason = str(error)
    else:
        assert image.mode == "RGB"
        assert min(image.size) >= 1
        assert 0 <= perceptual_hash(image) < 2**64
        reason = "none"
    assert reason


def test_perceptual_hash_of_gradients_by_hand():
    brighter = np.tile(np.arange(9, dtype=np.uint8) * 20, (8, 1))
    assert perceptual_hash(Image.fromarray(brighter).convert("RGB")) == 2**64 - 1
    assert perceptual_hash(Image.fromarray(brighter[:, ::-1].copy()).convert("RGB")) == 0
    one_step = np.zeros((8, 9), np.uint8)
    one_step[1, 3:] = 100  # row 1: cell 2 is darker than cell 3
    assert perceptual_hash(Image.fromarray(one_step).convert("RGB")) == 1 << (8 * 1 + 2)


def test_perceptual_hash_survives_encoding_and_resizing_and_distinguishes_images():
    images = [photograph() for _ in range(12)]
    hashes = [perceptual_hash(image) for image in images]
    for image, expected in zip(images, hashes, strict=True):
        for other in (
            decode(encode(image, "JPEG", quality=70)),
            decode(encode(image, "WEBP", quality=70)),
            image.resize((64, 48), Image.BILINEAR),
            image.resize((300, 200), Image.BICUBIC),
        ):
            # of 64 comparisons of neighbours, a few are so close that rounding decides them
            assert (perceptual_hash(other) ^ expected).bit_count() <= 6
    # unrelated images differ in 32 +- 4 of 64 bits; 6 is more than six standard deviations away
    assert min((a ^ b).bit_count() for i, a in enumerate(hashes) for b in hashes[:i]) > 12
