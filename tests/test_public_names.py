"""What packages promise to export, they export; what they export, they promise."""

import engine


def test_all_is_sorted_and_exact() -> None:
    assert engine.__all__ == sorted(
        engine.__all__, key=lambda name: (not name.isupper(), name.islower(), name)
    )
    assert all(hasattr(engine, name) for name in engine.__all__)


def test_the_engine_needs_no_ray() -> None:
    """GPU benchmarks run where there is torch and transformers only."""
    import subprocess
    import sys

    code = (
        "import sys\n"
        "for name in ('ray', 'fastapi', 'starlette'): sys.modules[name] = None\n"
        "import engine\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
