#!/usr/bin/env bash
# pyarrow: rows whose lists happen to be empty get another column type, and files of such rows do not fit together.
# A good engineer writes each batch of dictionaries by `Table.from_pylist` and reads the files as one data set. A batch in which
# no row has an entry is list<null>; where it comes first, the read of the folder fails, on the other files' entries.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "pyarrow==26.0.1"
cat > "$folder/see.py" <<'PYTHON'
import sys

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq

folder = sys.argv[1]
empty = pa.Table.from_pylist([{"tags": []}])
filled = pa.Table.from_pylist([{"tags": [{"name": "laughs"}]}])
print(f"pyarrow {pa.__version__}: no entry gives {empty.schema.field('tags').type}, one gives {filled.schema.field('tags').type}")
pq.write_table(empty, f"{folder}/part-1.parquet")
pq.write_table(filled, f"{folder}/part-2.parquet")
try:
    read = pyarrow.dataset.dataset(folder).to_table()
except pa.ArrowException as error:
    print(f"the folder cannot be read: {type(error).__name__}: {str(error)[:120]}")
else:
    print("the folder is read:", read["tags"].to_pylist())
    sys.exit(1)
PYTHON
mkdir "$folder/shards"
"$folder/venv/bin/python" "$folder/see.py" "$folder/shards"
