"""What an index of a dataset must be before anything in it is trusted: names become names of files, numbers places."""

import pyarrow as pa
import pyarrow.compute as pc

from data_prep.files.names import is_file_name

_STATED = ("id", "split", "length", "sequence", "warnings", "shard", "residue_start", "atom_start", "n_atoms")
_USUAL_ID = "^[A-Za-z0-9_][A-Za-z0-9._+%-]*$"
_NOT_NEGATIVE = ("length", "shard", "residue_start", "atom_start", "n_atoms")


def checked_index(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the columns of ``schema`` in its types, others after them.

    Raises ``ValueError``, whose text goes on after the file's name: a column is missing, of another type, blank or
    negative where it must not be; an id is there twice, or is no name of a file inside a directory.
    """
    for field in schema:
        if field.name not in table.schema.names:
            raise ValueError(f"has no column {field.name}")
        place = table.schema.get_field_index(field.name)
        try:
            table = table.set_column(place, field, table.column(place).cast(field.type))
        except pa.ArrowException as error:
            found = table.schema.field(place).type
            reason = str(error).splitlines()[0]
            raise ValueError(f"has {found} as {field.name}, expected {field.type} ({reason})") from None
    for name in _STATED:
        if table[name].null_count:
            raise ValueError(f"has a blank {name}")
    for name in _NOT_NEGATIVE:
        if len(table) and pc.min(table[name]).as_py() < 0:
            raise ValueError(f"has a negative {name}")
    ids = table["id"]
    if pc.count_distinct(ids).as_py() < len(ids):
        twice = pc.value_counts(ids).to_pylist()
        raise ValueError(f"has the id {next(v['values'] for v in twice if v['counts'] > 1)!r} twice")
    # Of those that are not as pipeline.prepare writes them, the rule decides one by one.
    unusual = pc.or_(pc.invert(pc.match_substring_regex(ids, _USUAL_ID)), pc.greater(pc.binary_length(ids), 100))
    for record_id in ids.filter(unusual).to_pylist():
        if not is_file_name(record_id):
            raise ValueError(f"has the id {record_id[:40]!a}, which is no name of a file")
    return table
