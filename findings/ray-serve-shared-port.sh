#!/usr/bin/env bash
# Two Ray Serve clusters of one user share a port without a word.
#
# Ray Serve's proxies (2.60.0) bind with SO_REUSEPORT. Where a second cluster on the same machine is
# told the same port, both say that they run, and the kernel deals out connections to the two: about
# half of the callers of one application are answered by the other. A server of another kind on the
# port is an error, as one would expect.
#
# To notice it, bind the port without SO_REUSEPORT before Serve starts.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q 'ray[serve]==2.60.0'
cat > "$folder/one.py" <<'PY'
import sys

import ray
from ray import serve

name, port, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]


@serve.deployment
class Says:
    def __call__(self, request: object) -> str:
        return name


ray.init(address="local", num_cpus=2, include_dashboard=False, _temp_dir=folder)
serve.start(http_options={"host": "127.0.0.1", "port": port})
serve.run(Says.options(ray_actor_options={"num_cpus": 0}).bind(), name=name)
status = serve.status().applications[name].status.value
print("serves:", status, flush=True)
sys.stdin.read()
PY
RAY_AUTH_MODE=disabled RAY_USAGE_STATS_ENABLED=0 "$folder/venv/bin/python" - "$folder" <<'PY'
import socket
import subprocess
import sys
import urllib.request
from collections import Counter

folder = sys.argv[1]
with socket.create_server(("127.0.0.1", 0)) as server:
    port = server.getsockname()[1]
clusters = []
for name in ("first", "second"):
    cluster = subprocess.Popen(
        [sys.executable, f"{folder}/one.py", name, str(port), f"{folder}/{name}"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    clusters.append(cluster)
    line = next(line for line in cluster.stdout if line.startswith("serves:"))
    print(f"{name} {line.strip()}")
    assert "RUNNING" in line
open_ = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
said = Counter(open_(f"http://127.0.0.1:{port}/").read().decode() for _ in range(60))
print(f"60 requests to port {port} were answered by: {dict(said)}")
for cluster in clusters:
    cluster.stdin.close()
    cluster.wait()
assert min(said["first"], said["second"]) > 5
PY
