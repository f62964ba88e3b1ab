"""The footer of a Parquet file, taken apart and put together again: what pyarrow does not offer.

With it a few row groups are read without the descriptions of a thousand others, and a file is given other columns
while the bytes of those that stay are copied, neither decoded nor encoded. The footer is one struct, ``FileMetaData``
of https://github.com/apache/parquet-format, in the compact protocol of Thrift
(https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md).

>>> data = write_value(STRUCT, {1: (INT, -3), 20: (LIST, (BINARY, [b"a", b"bc"]))})
>>> read_value(data, 0, STRUCT)
({1: (6, -3), 20: (9, (8, [b'a', b'bc']))}, 11)
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TRUE, FALSE, BYTE, INT, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = 1, 2, 3, 6, 7, 8, 9, 10, 11, 12
"""Kinds of values; 4 and 5 are integers as well, of 16 and 32 bits."""

MAGIC = b"PAR1"

Value = Any
"""A number, bytes, (kind, list) of a list, or {field: (kind, value)} of a struct."""

_SCHEMA, _ROWS, _ROW_GROUPS, _NOTES = 2, 3, 4, 5  # fields of FileMetaData
_COLUMNS, _GROUP_BYTES, _GROUP_ROWS, _GROUP_START, _GROUP_STORED, _ORDINAL = 1, 2, 3, 5, 6, 7  # of RowGroup
_DESCRIPTION, _CHUNK_OFFSETS = 3, (2, 4, 6)  # of ColumnChunk: its ColumnMetaData; its place, and those of its indexes
_PATH, _BYTES, _STORED, _OFFSETS = 3, 6, 7, (9, 10, 11, 14)  # of ColumnMetaData: pages, dictionary, Bloom filter


@dataclass(slots=True)
class RowGroup:
    """What a footer says of a row group, and where.

    Attributes:
        start: Where in the footer its description begins.
        chunks: Where those of its column chunks begin, in the order of the columns, and where the last one ends.
        stop: Where it ends.
        fields: What is said of it beside its column chunks.
    """

    start: int
    chunks: Sequence[int]
    stop: int
    fields: dict[int, Any]

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return self.fields[_GROUP_ROWS][1]


class Footer:
    """The footer of a file.

    Args:
        path: The file.

    Attributes:
        path: The file.
        data_stop: How many bytes of the file come before the footer.
        row_groups: What it says of each row group.
        notes: The file's metadata.

    Raises:
        ValueError: The file does not end as a Parquet file does.
    """

    def __init__(self, path: Path):
        self.path = path
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 8))
            end = file.read()
            length = int.from_bytes(end[:4], "little")
            if size < length + 12 or end[4:] != MAGIC:
                raise ValueError(f"{path}: no Parquet file, or one that was cut off")
            self.data_stop = size - 8 - length
            file.seek(self.data_stop)
            self._text = file.read(length)
        self._fields: dict[int, tuple[int, bytes]] = {}
        self.row_groups: list[RowGroup] = []
        at = last = 0
        while header := self._text[at]:
            last, at = _read_header(self._text, at, last)
            kind = header & 15
            if last == _ROW_GROUPS:
                at = self._read_row_groups(at)
            else:
                start, at = at, _skip(self._text, at, kind)
                self._fields[last] = kind, self._text[start:at]
        self.notes = {}
        if _NOTES in self._fields:
            (_, entries), _ = read_value(self._fields[_NOTES][1], 0, LIST)
            self.notes = {entry[1][1]: entry[2][1] for entry in entries if 2 in entry}

    @property
    def schema(self) -> bytes:
        """What it says of the columns, to be compared with another's."""
        return self._fields[_SCHEMA][1]

    def leaves(self, column: str) -> list[int]:
        """Which of the column chunks of a row group are a column's."""
        group = self.row_groups[0]
        paths = [self.chunk(group, place)[_DESCRIPTION][1][_PATH][1][1] for place in range(len(group.chunks) - 1)]
        return [place for place, path in enumerate(paths) if path[0].decode() == column]

    def chunk(self, group: RowGroup, place: int) -> dict[int, Any]:
        """The description of a column chunk."""
        return read_value(self._text, group.chunks[place], STRUCT)[0]

    def with_chunks(
        self, group: RowGroup, shift: int, other: Footer, others: RowGroup, other_shift: int, places: dict[int, int]
    ) -> bytes:
        """The description of a row group in a file that holds its bytes, and in place of some chunks those of another.

        Args:
            group: The row group.
            shift: How much further on its bytes are there.
            other: The footer of the file with the other chunks.
            others: Their row group.
            other_shift: How much further on their bytes are.
            places: Which of their chunks each replaced one gives way to.
        """
        fields = {number: field for number, field in group.fields.items() if number != _ORDINAL}
        _move(fields, (_GROUP_START,), shift)
        texts = []
        for place in range(len(group.chunks) - 1):
            if place in places:
                old, new = self.chunk(group, place), other.chunk(others, places[place])
                _grow(fields, new, 1)
                _grow(fields, old, -1)
                new[_DESCRIPTION][1][_PATH] = old[_DESCRIPTION][1][
                    _PATH
                ]  # who wrote it may name parts of lists his way
                texts.append(_moved(new, other_shift))
            elif shift:
                texts.append(_moved(self.chunk(group, place), shift))
            else:
                texts.append(self._text[group.chunks[place] : group.chunks[place + 1]])
        fields = write_value(STRUCT, fields)
        # the first of those fields is numbered from the columns' on
        return b"".join(
            [_header(1, LIST, _COLUMNS), _list_header(STRUCT, len(texts)), *texts, bytes([fields[0] - 16]), fields[1:]]
        )

    def of_row_groups(self, groups: Sequence[RowGroup]) -> bytes:
        """A Parquet file without data, whose footer describes these row groups of this file alone."""
        texts = [self._text[group.start : group.stop] for group in groups]
        return MAGIC + self.with_row_groups(texts, sum(group.rows for group in groups), self.notes)

    def with_row_groups(self, groups: Sequence[bytes], rows: int, notes: dict[bytes, bytes]) -> bytes:
        """The end of a file with the columns of this one.

        Args:
            groups: The descriptions of its row groups.
            rows: How many rows they have together.
            notes: Its metadata.
        """
        parts: list[bytes] = []
        entries = [{1: (BINARY, name), 2: (BINARY, value)} for name, value in notes.items()]
        fields = {
            **self._fields,
            _ROWS: (INT, write_value(INT, rows)),
            _ROW_GROUPS: (LIST, b""),
            _NOTES: (LIST, write_value(LIST, (STRUCT, entries))),
        }
        last = 0
        for number in sorted(fields):
            kind, text = fields[number]
            parts.append(_header(number - last, kind, number))
            last = number
            parts += [_list_header(STRUCT, len(groups)), *groups] if number == _ROW_GROUPS else [text]
        parts.append(b"\0")
        text = b"".join(parts)
        return text + len(text).to_bytes(4, "little") + MAGIC

    def _read_row_groups(self, at: int) -> int:
        text = self._text
        _, count, at = _read_list_header(text, at)
        for _ in range(count):
            start, last, chunks, fields = at, 0, [at], {}
            while header := text[at]:
                last, at = _read_header(text, at, last)
                if last == _COLUMNS:
                    _, columns, at = _read_list_header(text, at)
                    chunks = [at]
                    for _ in range(columns):
                        at = _skip(text, at, STRUCT)
                        chunks.append(at)
                else:
                    value, at = read_value(text, at, header & 15)
                    fields[last] = header & 15, value
            at += 1
            self.row_groups.append(RowGroup(start, chunks, at, fields))
        return at


def _moved(chunk: dict[int, Any], shift: int) -> bytes:
    """The description of a column chunk whose bytes have moved."""
    _move(chunk, _CHUNK_OFFSETS, shift)
    _move(chunk[_DESCRIPTION][1], _OFFSETS, shift)
    return write_value(STRUCT, chunk)


def _move(fields: dict[int, Any], numbers: Iterable[int], shift: int) -> None:
    """Adds to offsets; 0 stands for none."""
    for number in numbers:
        if number in fields and fields[number][1]:
            kind, offset = fields[number]
            fields[number] = kind, offset + shift


def _grow(fields: dict[int, Any], chunk: dict[int, Any], sign: int) -> None:
    """Counts the bytes of a column chunk among those of its row group, or no longer."""
    for total, part in ((_GROUP_BYTES, _BYTES), (_GROUP_STORED, _STORED)):
        if total in fields:
            kind, size = fields[total]
            fields[total] = kind, size + sign * chunk[_DESCRIPTION][1][part][1]


# Thrift's compact protocol


def read_value(text: bytes, at: int, kind: int) -> tuple[Value, int]:
    """The value at a place, and where it ends."""
    if kind in (TRUE, FALSE):  # of a field: the value is in its header
        return kind == TRUE, at
    if kind == BYTE:
        return text[at], at + 1
    if kind == DOUBLE:
        return struct.unpack_from("<d", text, at)[0], at + 8
    if kind == BINARY:
        size, at = _read_number(text, at)
        return text[at : at + size], at + size
    if kind in (LIST, SET):
        of, count, at = _read_list_header(text, at)
        values = []
        for _ in range(count):
            value, at = (text[at], at + 1) if of in (TRUE, FALSE) else read_value(text, at, of)
            values.append(value)
        return (of, values), at
    if kind == STRUCT:
        fields: dict[int, Any] = {}
        last = 0
        while header := text[at]:
            last, at = _read_header(text, at, last)
            value, at = read_value(text, at, header & 15)
            fields[last] = header & 15, value
        return fields, at + 1
    if kind in (4, 5, INT):
        value, at = _read_number(text, at)
        return (value >> 1) ^ -(value & 1), at
    raise ValueError(f"a value of kind {kind}, which the footer of a Parquet file does not have")


def write_value(kind: int, value: Value) -> bytes:
    """The bytes of a value, as :func:`read_value` gives it."""
    if kind in (TRUE, FALSE):
        return b""
    if kind == BYTE:
        return bytes([value])
    if kind == DOUBLE:
        return struct.pack("<d", value)
    if kind == BINARY:
        return _number(len(value)) + value
    if kind in (LIST, SET):
        of, values = value
        written = (bytes([entry]) if of in (TRUE, FALSE) else write_value(of, entry) for entry in values)
        return _list_header(of, len(values)) + b"".join(written)
    if kind == STRUCT:
        parts, last = [], 0
        for number, (of, entry) in sorted(value.items()):
            parts += [_header(number - last, of, number), write_value(of, entry)]
            last = number
        return b"".join(parts) + b"\0"
    return _number((value << 1) ^ (value >> 63))


def _skip(text: bytes, at: int, kind: int) -> int:
    """Where a value ends. A footer has millions of them: what is frequent comes first."""
    if kind == STRUCT:
        while header := text[at]:
            at += 1
            if header < 16:  # its number does not follow from the one before
                while text[at] > 127:
                    at += 1
                at += 1
            of = header & 15
            if 4 <= of <= INT:
                while text[at] > 127:
                    at += 1
                at += 1
            elif of == BINARY:
                size = text[at]
                if size > 127:
                    size, at = _read_number(text, at)
                    at += size
                else:
                    at += 1 + size
            elif of > FALSE:
                at = _skip(text, at, of)
        return at + 1
    if kind in (LIST, SET):
        of, count, at = _read_list_header(text, at)
        for _ in range(count):
            if 4 <= of <= INT:
                while text[at] > 127:
                    at += 1
                at += 1
            else:
                at = at + 1 if of in (TRUE, FALSE) else _skip(text, at, of)
        return at
    return read_value(text, at, kind)[1]


def _read_number(text: bytes, at: int) -> tuple[int, int]:
    """Seven bits a byte, the lowest first."""
    number = shift = 0
    while True:
        byte = text[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
        shift += 7


def _number(value: int) -> bytes:
    written = bytearray()
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    written.append(value)
    return bytes(written)


def _read_header(text: bytes, at: int, last: int) -> tuple[int, int]:
    """The number of the field whose header is at a place, and where its value begins."""
    if step := text[at] >> 4:
        return last + step, at + 1
    return read_value(text, at + 1, INT)


def _header(step: int, kind: int, number: int) -> bytes:
    """The header of a field, so many numbers after the one before it."""
    return bytes([step << 4 | kind]) if step < 16 else bytes([kind]) + write_value(INT, number)


def _read_list_header(text: bytes, at: int) -> tuple[int, int, int]:
    """The kind of a list's entries, how many there are, and where the first begins."""
    header = text[at]
    if header >> 4 < 15:
        return header & 15, header >> 4, at + 1
    count, at = _read_number(text, at + 1)
    return header & 15, count, at


def _list_header(kind: int, count: int) -> bytes:
    return bytes([count << 4 | kind]) if count < 15 else bytes([0xF0 | kind]) + _number(count)
