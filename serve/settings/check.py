"""Checks settings that are each within their bounds: whether any machine could run the tiers, and
whether their prices are known. Does not import Ray."""

from deployments.options import AUTO
from engine.errors import EngineError
from engine.model_sizes import known_sizes
from serve.settings.config import ConfigError, Settings, TierSettings
from serve.settings.tier_facts import expected_rtfx, is_english_only, quality_of, tier_facts
from serve.settings.tier_spec import tier_spec


def check_settings(settings: Settings) -> None:
    """Check the settings as a whole.

    Raises:
        ConfigError: with a line for each fault.
    """
    faults = [
        f"tiers.{index}: {fault}"
        for index, tier in enumerate(settings.tiers)
        if (fault := _fault_of(tier)) is not None
    ]
    if not any(quality_of(tier) for tier in settings.tiers):
        names = ", ".join(alias for alias, name in settings.aliases.items() if name == AUTO)
        if names:
            what = f"stand for {AUTO!r}, but no tier takes part in it: set quality"
            faults.append(f"aliases: {names} {what}")
    if faults:
        raise ConfigError("\n".join(faults))


def _fault_of(tier: TierSettings) -> str | None:
    if is_english_only(tier) and (tier.translates or set(tier.languages) - {"en"}):
        return f"{tier.model} knows English alone: languages and translates cannot say otherwise"
    try:
        dims = known_sizes(tier.model)
        if dims is not None:  # replicas of models of unknown size check this when they start
            # Imports torch, which Serve's controller does without where it imports this module.
            from deployments.replicas.gang_mesh import check_fits

            check_fits(dims, tier_spec(tier), tier.accelerators)
        tier_facts(tier)
        expected_rtfx(tier)
    except (ConfigError, EngineError) as error:
        return str(error)
    return None
