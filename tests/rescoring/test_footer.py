"""Footers of Parquet files, beside what pyarrow reads of them."""

import datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stored import groups_of, write

from grpo_agents.rescoring.footer import STRUCT, Footer, read_value, write_value


def odd_file(path):
    """Many kinds of columns, statistics, indexes and filters."""
    rng = np.random.default_rng(0)
    table = pa.table(
        {
            "number": rng.integers(-(2**62), 2**62, 500),
            "text": [None if n % 9 == 0 else "é" * (n % 300) for n in range(500)],
            "truth": [n % 3 == 0 for n in range(500)],
            "lists": [list(range(n % 5)) for n in range(500)],
            "day": [datetime.date(2020, 1, 1) + datetime.timedelta(n) for n in range(500)],
            "money": pa.array(range(500), pa.decimal128(20, 2)),
        },
    )
    table = table.replace_schema_metadata({"a": "b" * 1000, "": ""})
    pq.write_table(
        table, path, row_group_size=70, write_page_index=True, sorting_columns=[pq.SortingColumn(4)], compression="gzip"
    )
    return path


@pytest.fixture(params=["odd", "trajectories"])
def file(request, tmp_path):
    path = tmp_path / "a.parquet"
    return odd_file(path) if request.param == "odd" else write(path, groups_of(20), rows=7)


def test_it_says_where_everything_is(file):
    footer, metadata = Footer(file), pq.read_metadata(file)
    assert [group.rows for group in footer.row_groups] == [
        metadata.row_group(place).num_rows for place in range(metadata.num_row_groups)
    ]
    assert footer.notes == metadata.metadata
    assert file.stat().st_size - footer.data_stop == metadata.serialized_size + 8
    names = [metadata.schema.column(place).path.split(".")[0] for place in range(metadata.num_columns)]
    for name in set(names):
        assert footer.leaves(name) == [place for place, other in enumerate(names) if other == name]


def test_what_is_read_is_written_as_it_was(file):
    footer = Footer(file)
    for group in footer.row_groups:
        for place in range(len(group.chunks) - 1):
            text = footer._text[group.chunks[place] : group.chunks[place + 1]]
            value, end = read_value(text, 0, STRUCT)
            assert end == len(text)
            assert write_value(STRUCT, value) == text


def test_some_row_groups_are_read_as_if_they_were_all(file):
    footer, whole = Footer(file), pq.read_table(file)
    text = footer.of_row_groups(footer.row_groups[2:4])
    metadata = pq.read_metadata(pa.BufferReader(text))
    start = sum(group.rows for group in footer.row_groups[:2])
    with pq.ParquetFile(file, metadata=metadata) as part:
        assert part.read().equals(whole.slice(start, metadata.num_rows))
        assert part.schema_arrow.equals(whole.schema, check_metadata=True)


def test_what_is_no_parquet_file_is_said(tmp_path, file):
    for content in (b"", b"PAR1", file.read_bytes()[:-1], b"\0" * 100):
        (tmp_path / "b.parquet").write_bytes(content)
        with pytest.raises(ValueError, match=r"b\.parquet: no Parquet file, or one that was cut off"):
            Footer(tmp_path / "b.parquet")
