"""Values as text."""

from pipeline.results.plain_text import human_bytes, plain


def test_values_as_text() -> None:
    assert plain({"mean": [0.4980392156862745, 0.5], "crop": 96}) == "mean 0.498039 0.5, crop 96"


def test_bytes_have_a_binary_unit() -> None:
    sizes = (0, 1023, 1536, 5 * 1024**3, 2 * 1024**5)
    assert [human_bytes(size) for size in sizes] == [
        "0 bytes",
        "1023 bytes",
        "1.5 KiB",
        "5.0 GiB",
        "2048.0 TiB",
    ]
