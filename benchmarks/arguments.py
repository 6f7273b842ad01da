"""Arguments of commands that several benchmarks have."""


def comma_list(text: str) -> list[str]:
    """`a, b` -> `["a", "b"]`."""
    return [name.strip() for name in text.split(",") if name.strip()]
