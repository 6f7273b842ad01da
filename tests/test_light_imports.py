"""Which processes do without torch: each import of it takes two seconds and 150 MB."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "tokenizers")


@pytest.mark.parametrize(
    "module",
    [
        "serve.app",  # Serve's controller builds the application with it
        "serve.http.routes",  # the ingress
        "serve.http.read_ahead",  # Ray's own proxy
        "deployments.routing.board",
        "deployments.routing.scaling_policy",  # Serve's controller, for its decisions
        "serve.commands.cli",
        "serve.client",
    ],
)
def test_it_imports_no_torch(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
