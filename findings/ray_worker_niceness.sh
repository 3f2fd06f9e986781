#!/usr/bin/env bash
# Ray: workers run 15 steps nicer than the processes that started the cluster.
# (Up to 19, the most.) A good engineer expects actors to get the processor as the program that starts them does. Beside other work on the
# same machine they get a thirtieth of it: `RAY_worker_niceness=0` before the cluster starts makes them equal.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "ray==2.60.0"
cat > "$folder/see.py" <<'PYTHON'
import os

import ray

ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
worker = ray.get(ray.remote(lambda: os.nice(0)).remote())
print(worker - os.nice(0))
PYTHON
default=$("$folder/venv/bin/python" "$folder/see.py" 2>/dev/null | tail -1)
equal=$(RAY_worker_niceness=0 "$folder/venv/bin/python" "$folder/see.py" 2>/dev/null | tail -1)
echo "ray 2.60.0: a worker is $default steps nicer than the driver, and $equal with RAY_worker_niceness=0"
[ "$default" -gt 0 ] && [ "$equal" -eq 0 ]
