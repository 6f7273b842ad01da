"""Another application on a cluster: `python other_app.py CPUS PORT` serves "other" at /."""

import sys

import ray
from ray import serve


@serve.deployment
class Other:
    async def __call__(self, request: object) -> str:
        return "other"


if __name__ == "__main__":
    cpus, port = float(sys.argv[1]), int(sys.argv[2])
    ray.init(log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    app = Other.options(ray_actor_options={"num_cpus": cpus}).bind()
    serve.run(app, name="other", route_prefix="/")
