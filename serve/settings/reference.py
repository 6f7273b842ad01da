"""Renders docs/configuration.md from the settings.

python -m serve.settings.reference > docs/configuration.md
"""

import json
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from serve.settings.config import (
    AuthSettings,
    AutoscalingSettings,
    CanarySettings,
    CascadeSettings,
    HttpSettings,
    IngressSettings,
    LimitSettings,
    RoutingSettings,
    Settings,
    SloSettings,
    TierSettings,
)
from serve.settings.loading import ENVIRONMENT_PREFIX
from training.settings import (
    AugmentSettings,
    FinetuneSettings,
    LoraSettings,
    OptimiserSettings,
    ValidationSet,
    WindowSettings,
)

_HEAD = f"""# Configuration

One YAML file; every field has a default. `murmur check-config FILE` says what is wrong with it, or
prints what it means. A variable of the environment goes before the file:
`{ENVIRONMENT_PREFIX}LIMITS__DEADLINE_S=60` sets `deadline_s` of `limits`. A list, a section or a
mapping is YAML or JSON, such as `{ENVIRONMENT_PREFIX}AUTH__API_KEYS='["sk-..."]'`; what a section
leaves out stays as the file has it.

Each machine has variables of its own, too. `MURMUR_CACHE` names the folder for what can be made
again (by default `$XDG_CACHE_HOME/murmur` or `~/.cache/murmur`). `MURMUR_TRITON=0` turns our
kernels for GPUs off, and `MURMUR_TRITON_TUNE=0` only the measuring of how they are launched best.

```yaml
tiers:
  - name: turbo
    model: openai/whisper-large-v3-turbo
    accelerator: L4
    max_replicas: 4
  - name: large
    model: openai/whisper-large-v3
    accelerator: H100
    batch_size: 128
limits:
  max_upload_mb: 200
```
"""
_SECTIONS: dict[str, type[BaseModel]] = {
    "tiers": TierSettings,
    "ingress": IngressSettings,
    "limits": LimitSettings,
    "auth": AuthSettings,
    "slo": SloSettings,
    "routing": RoutingSettings,
    "routing.cascade": CascadeSettings,
    "routing.canary": CanarySettings,
    "autoscaling": AutoscalingSettings,
    "http": HttpSettings,
}
_FINETUNE: dict[str, type[BaseModel]] = {
    "validation": ValidationSet,
    "lora": LoraSettings,
    "optimiser": OptimiserSettings,
    "windows": WindowSettings,
    "augment": AugmentSettings,
}


def render() -> str:
    """The whole page."""
    parts = [_HEAD, _table(Settings, "## The file")]
    parts += [_table(model, f"## `{name}`") for name, model in _SECTIONS.items()]
    parts.append(_table(FinetuneSettings, "## The file of `murmur finetune`"))
    parts += [_table(model, f"### `{name}`") for name, model in _FINETUNE.items()]
    return "\n".join(parts)


def _table(model: type[BaseModel], title: str) -> str:
    rows = [
        f"| `{name}` | {_default(name, field)} | {_words(field.description)} |"
        for name, field in model.model_fields.items()
    ]
    header = ["| field | default | meaning |", "|---|---|---|"]
    return "\n".join([title, "", _words(model.__doc__), "", *header, *rows, ""])


def _default(name: str, field: FieldInfo) -> str:
    if field.is_required():
        return "must be set"
    if name in {section.rpartition(".")[2] for section in _SECTIONS} or name in _FINETUNE:
        if name in ("validation", "canary"):
            return "none"
        return "the demo models" if name == "tiers" else "see below"
    if name == "aliases":
        return "OpenAI's names: the last tier"
    return f"`{json.dumps(_plain(field.default))}`"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _words(text: str | None) -> str:
    assert text, "every setting says what it means"
    return " ".join(text.split())


if __name__ == "__main__":
    print(render(), end="")
