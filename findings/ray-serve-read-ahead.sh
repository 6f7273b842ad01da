#!/usr/bin/env bash
# Ray Serve reads a request's body into the replica's memory before the application asks for it.
#
# In Ray Serve (2.60.0) proxy and replica put the parts of a body into queues without a bound, as
# fast as they come. So an application that reads slowly, or that has not yet decided whether it
# wants the body at all, holds nobody up: here it reads nothing, and 300 MB arrive in its process.
# What bounds memory is only what is let in: refuse by content-length before the body comes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q 'ray[serve]==2.60.0'
RAY_AUTH_MODE=disabled RAY_USAGE_STATS_ENABLED=0 "$folder/venv/bin/python" - "$folder/ray" <<'PY'
import asyncio
import http.client
import resource
import socket
import sys
from pathlib import Path

import ray
from ray import serve
from starlette.requests import Request

SENT_MB, READ_AHEAD_S = 300, 10.0


@serve.deployment
class ReadsNothing:
    async def __call__(self, request: Request) -> str:
        await asyncio.sleep(float(request.query_params["s"]))
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return str(pages * resource.getpagesize() // 10**6)


with socket.create_server(("127.0.0.1", 0)) as server:
    port = server.getsockname()[1]
ray.init(address="local", num_cpus=1, include_dashboard=False, _temp_dir=sys.argv[1])
serve.start(http_options={"host": "127.0.0.1", "port": port})
serve.run(ReadsNothing.options(ray_actor_options={"num_cpus": 0}).bind())


def resident_mb(n_mb: int, wait_s: float) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.putrequest("POST", f"/?s={wait_s}")
    connection.putheader("content-length", str(n_mb * 10**6))
    connection.endheaders()
    for _ in range(n_mb):
        connection.send(bytes(10**6))
    return int(connection.getresponse().read())


before, after = resident_mb(0, 0.0), resident_mb(SENT_MB, READ_AHEAD_S)
print(f"resident memory of the replica: {before} MB, with {SENT_MB} MB sent and unread: {after} MB")
assert after - before > 0.8 * SENT_MB
PY
