"""The table for Embedding Atlas: its columns, their types, and what they hold."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.browse.browse import browse
from pipeline.browse.findings import Findings
from pipeline.browse.gallery import Gallery, open_gallery
from pipeline.errors import WrongUse
from pipeline.settings.browse import BrowseConfig


@pytest.fixture(scope="module")
def exporting(config: BrowseConfig, tmp_path_factory: pytest.TempPathFactory) -> BrowseConfig:
    out = tmp_path_factory.mktemp("atlas") / "atlas.parquet"
    return BrowseConfig(**{**vars(config), "export": out, "limit": 40})


@pytest.fixture(scope="module")
def shown(exporting: BrowseConfig) -> Gallery:
    return open_gallery(exporting)


@pytest.fixture(scope="module")
def table(exporting: BrowseConfig) -> pa.Table:
    browse(exporting)  # returns: nothing is served
    return pq.read_table(exporting.export)


def test_its_columns_are_those_that_embedding_atlas_reads(table: pa.Table) -> None:
    neighbours = pa.struct([("ids", pa.list_(pa.int64())), ("distances", pa.list_(pa.float32()))])
    assert dict(zip(table.schema.names, table.schema.types, strict=True)) == {
        "row": pa.int64(),
        "name": pa.string(),
        "label": pa.string(),
        "cluster": pa.string(),
        "x": pa.float32(),
        "y": pa.float32(),
        "neighbors": neighbours,
        "neighbors tests.support.tiny_student:plain 1q": neighbours,
        "image": pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    }


def test_rows_are_those_of_the_gallery(table: pa.Table, shown: Gallery) -> None:
    assert table["row"].to_pylist() == shown.rows.tolist()
    assert table["name"].to_pylist() == [shown.name(index) for index in range(40)]
    assert table["label"].to_pylist() == [shown.label(index) for index in range(40)]
    assert all(
        cluster.partition(" ")[2] == label
        for cluster, label in zip(table["cluster"].to_pylist(), table["label"].to_pylist(), strict=True)
    )


def test_neighbours_are_places_in_the_table_and_not_rows(table: pa.Table, shown: Gallery) -> None:
    for side, name in enumerate(("neighbors", "neighbors tests.support.tiny_student:plain 1q")):
        for index, near in enumerate(table[name].to_pylist()):
            expected = shown.neighbours(index)[side]
            assert near["ids"][: len(expected)] == [one for one, _ in expected]
            assert np.allclose(near["distances"][: len(expected)], [1 - c for _, c in expected], atol=1e-4)
            assert len(near["ids"]) == len(near["distances"]) == 15
            assert max(near["ids"]) < 40


def test_images_are_thumbnails_with_their_names(table: pa.Table) -> None:
    for row in table.select(["image", "name", "label"]).to_pylist():
        picture = Image.open(io.BytesIO(row["image"]["bytes"]))
        assert (picture.format, picture.size) == ("JPEG", (24, 24))
        assert row["image"]["path"] == row["name"]


def test_it_says_how_to_open_it(exporting: BrowseConfig, capsys: pytest.CaptureFixture[str]) -> None:
    browse(exporting)
    assert capsys.readouterr().out == (
        f"wrote {exporting.export}, 40 rows; open it with\n"
        f"embedding-atlas {exporting.export} --x x --y y --neighbors neighbors --image image\n"
    )


def test_another_suffix_and_a_folder_that_is_no_folder_are_refused(
    exporting: BrowseConfig, tmp_path: Path
) -> None:
    with pytest.raises(WrongUse, match=r"^map.csv: name a file that ends in .parquet$"):
        browse(BrowseConfig(**{**vars(exporting), "export": Path("map.csv")}))
    (tmp_path / "file").write_text("")
    with pytest.raises(WrongUse, match="cannot write"):
        browse(BrowseConfig(**{**vars(exporting), "export": tmp_path / "file" / "map.parquet"}))


def test_only_what_is_written_is_computed(
    exporting: BrowseConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    draw = Findings.draw_map

    def noted(findings: Findings, number: int) -> None:
        drawn.append(number)
        draw(findings, number)

    monkeypatch.setattr(Findings, "draw_map", noted)
    monkeypatch.setattr(Findings, "compare", lambda *given: pytest.fail("nothing of it is written"))
    browse(BrowseConfig(**{**vars(exporting), "export": tmp_path / "map.parquet"}))
    assert drawn == [0]


def test_an_image_that_has_gone_is_null_and_counted(
    exporting: BrowseConfig, shown: Gallery, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = shown.images.data / "val" / shown.name(3)
    away = file.rename(file.with_name("away"))
    try:
        browse(BrowseConfig(**{**vars(exporting), "export": tmp_path / "map.parquet"}))
    finally:
        away.rename(file)
    images = pq.read_table(tmp_path / "map.parquet")["image"].to_pylist()
    assert [index for index, image in enumerate(images) if image is None] == [3]
    assert "warning: 1 image cannot be read: it is null\n" in capsys.readouterr().err


def test_a_path_is_quoted_for_the_shell(
    exporting: BrowseConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "my map; ls.parquet"
    browse(BrowseConfig(**{**vars(exporting), "export": out}))
    assert f"embedding-atlas '{out}' --x x" in capsys.readouterr().out
