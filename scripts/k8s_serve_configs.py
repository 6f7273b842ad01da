"""Write what the overlays of k8s/ take from settings: their serveConfigV2.

`make k8s` runs it; a test compares. The files are patches of kustomize.
"""

from dataclasses import dataclass
from pathlib import Path

import yaml

from serve.settings.check import check_settings
from serve.settings.config import Settings
from serve.settings.loading import load_settings
from serve.settings.serve_config import serve_config

ROOT = Path(__file__).parents[1]
FLEET = ROOT / "fleet.yaml"
_OVERLAYS = ROOT / "k8s" / "overlays"
_HEADER = """\
# Made by `make k8s` from {source}. Change that, not this.
"""


@dataclass(frozen=True, slots=True)
class Overlay:
    """An overlay and where its settings are."""

    name: str
    settings_file: Path

    @property
    def folder(self) -> Path:
        return _OVERLAYS / self.name

    @property
    def patch(self) -> Path:
        return self.folder / "serve-config.yaml"

    def settings(self) -> Settings:
        settings = load_settings(self.settings_file, {})
        check_settings(settings)
        return settings

    def render(self) -> str:
        """The patch, as it has to be."""
        config = yaml.safe_dump(serve_config(self.settings()), sort_keys=False, width=10_000)
        lines = "".join(f"    {line}\n" for line in config.splitlines())
        return (
            _HEADER.format(source=self.settings_file.relative_to(ROOT))
            + "apiVersion: ray.io/v1\nkind: RayService\nmetadata:\n  name: murmur\n"
            + f"spec:\n  serveConfigV2: |\n{lines}"
        )


OVERLAYS = (
    Overlay("cpu-demo", _OVERLAYS / "cpu-demo" / "settings.yaml"),
    Overlay("gpu", FLEET),
)


def main() -> None:
    for overlay in OVERLAYS:
        overlay.patch.write_text(overlay.render(), encoding="utf-8")


if __name__ == "__main__":
    main()
