"""A Ray job that cannot import the project. It prints what it gets for a file and for three
mistakes, as JSON.

python plain_job.py AUDIO
"""

import importlib.abc
import json
import sys
from pathlib import Path

_ABSENT = ("deployments", "engine", "serve")


class _Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):  # type: ignore[no-untyped-def]
        if name.partition(".")[0] in _ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


sys.meta_path.insert(0, _Absent())

import ray  # noqa: E402
from ray import serve as ray_serve  # noqa: E402


def _call(handle: object, audio: bytes, options: dict[str, object]) -> dict[str, object]:
    try:
        result = handle.transcribe.remote(audio, options).result()  # type: ignore[attr-defined]
    except Exception as error:  # any error is reported
        cause = getattr(error, "cause", error)
        return {
            "kinds": [kind.__name__ for kind in type(cause).__mro__],
            "message": str(cause),
            "code": getattr(cause, "code", None),
        }
    return {"kind": type(result).__name__, "text": result["text"], "keys": sorted(result)}


def main() -> None:
    ray.init(log_to_driver=False)
    handle = ray_serve.get_app_handle("murmur")
    audio = Path(sys.argv[1]).read_bytes()
    told = {
        "result": _call(handle, audio, {"model": "tiny.en", "priority": "interactive"}),
        "no such model": _call(handle, audio, {"model": "no-such-model"}),
        "no audio": _call(handle, b"These are words. " * 200, {"model": "tiny.en"}),
        "no such option": _call(handle, audio, {"model": "tiny.en", "colour": "green"}),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
