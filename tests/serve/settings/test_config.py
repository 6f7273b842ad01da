"""Settings: defaults, the file, the environment over it, and what is said of mistakes."""

from pathlib import Path

import pytest
import yaml

from serve.commands.cli import main
from serve.settings import reference
from serve.settings.config import OPENAI_MODELS, ConfigError
from serve.settings.loading import load_settings

ROOT = Path(__file__).parents[3]


def load(tmp_path: Path, text: str, **environment: str):  # type: ignore[no-untyped-def]
    path = tmp_path / "murmur.yaml"
    path.write_text(text, encoding="utf-8")
    return load_settings(path, environment)


def test_without_a_file_the_demo_models_are_served() -> None:
    settings = load_settings(None, {})
    assert [tier.model for tier in settings.tiers] == ["demo:tiny.en", "demo:base"]
    assert settings.aliases == dict.fromkeys(OPENAI_MODELS, "base")
    assert all(tier.accelerator == "cpu" for tier in settings.tiers)


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert load(tmp_path, "# nothing yet\n") == load_settings(None, {})


def test_an_alias_may_stand_for_an_adapter(tmp_path: Path) -> None:
    tiers = "tiers: [{name: a, model: m, adapters: {b: /b}}]"
    settings = load(tmp_path, f"{tiers}\naliases: {{whisper-1: b}}")
    assert settings.aliases == dict.fromkeys(OPENAI_MODELS, "b")


def test_the_environment_goes_before_the_file(tmp_path: Path) -> None:
    text = "limits: {deadline_s: 5, max_upload_mb: 7}"
    settings = load(tmp_path, text, MURMUR__LIMITS__DEADLINE_S="9.5", OTHER="1")
    assert (settings.limits.deadline_s, settings.limits.max_upload_mb) == (9.5, 7)


def test_a_list_may_come_from_the_environment() -> None:
    tiers = "[{name: small, model: m}, {name: large, model: n, batch_size: 3}]"
    settings = load_settings(None, {"MURMUR__TIERS": tiers})
    assert settings.tiers[1].batch_size == 3
    assert settings.aliases == dict.fromkeys(OPENAI_MODELS, "large")


@pytest.mark.parametrize(
    ("aliases", "changed"),
    [
        ("{}", {}),
        ("{mine: auto}", {"mine": "auto"}),
        ("{gpt-transcribe: auto}", {"gpt-transcribe": "auto"}),
        ("{whisper-1: auto}", dict.fromkeys(OPENAI_MODELS, "auto")),
        (
            "{whisper-1: auto, gpt-transcribe: base}",
            dict.fromkeys(OPENAI_MODELS, "auto") | {"gpt-transcribe": "base"},
        ),
    ],
)
def test_openais_newer_names_follow_whisper_1(
    tmp_path: Path, aliases: str, changed: dict[str, str]
) -> None:
    settings = load(tmp_path, f"aliases: {aliases}")
    assert settings.aliases == dict.fromkeys(OPENAI_MODELS, "base") | changed


def test_a_tier_may_have_one_of_openais_names(tmp_path: Path) -> None:
    tiers = "tiers: [{name: whisper-1, model: demo:base}, {name: tiny.en, model: demo:tiny.en}]"
    assert load(tmp_path, tiers).aliases == dict.fromkeys(OPENAI_MODELS[1:], "whisper-1")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("limit: {}", "limit: there is no such setting"),
        ("limits: {deadlines: 1}", "limits.deadlines: there is no such setting"),
        ("limits: {deadline_s: 0}", "limits.deadline_s: .* greater than 0"),
        ("limits: {deadline_s: soon}", "limits.deadline_s: .* valid number"),
        ("tiers: []", "tiers: .* at least 1 item"),
        ("tiers: [{name: a}]", "tiers.0.model: must be set"),
        ("tiers: [{name: A b, model: m}]", "tiers.0.name: .* pattern"),
        ("tiers: [{name: a, model: m, precision: int3}]", "tiers.0.precision: .*'int8'"),
        ("tiers: [{name: a, model: m, min_replicas: 2}]", "tiers.0: .*above max_replicas"),
        (
            "tiers: [{name: a, model: m, pipeline_parallel: 2, stage_layers: [64]}]",
            "tiers.0: stage_layers has 1 entries, pipeline_parallel is 2",
        ),
        (
            "tiers: [{name: a, model: m, pipeline_parallel: 2, stage_accelerators: [cpu, L4]}]",
            "tiers.0: stage_accelerators must be all cpu or all GPUs",
        ),
        ("tiers: [{name: a, model: m, stage_layers: [0]}]", "tiers.0.stage_layers.0: .* to 1"),
        ("tiers: [{name: a, model: m}, {name: a, model: n}]", "two tiers are called 'a'"),
        ("aliases: {whisper-1: huge}", "stands for 'huge', which is no tier"),
        ("routing: {canary: {huge: {to: base, share: 0.1}}}", "routing.canary: 'huge' is no tier"),
        ("routing: {canary: {base: {to: huge, share: 0.1}}}", "routing.canary: 'huge' is no tier"),
        (
            "routing: {canary: {base: {to: base, share: 0.1}}}",
            "'base' is tried for 'base'",
        ),
        (
            "routing: {canary: {base: {to: tiny.en, share: 0}}}",
            "canary.base.share: .*than 0",
        ),
        ("routing: {canary: {base: {to: tiny.en, share: 1.1}}}", "canary.base.share: .*equal to 1"),
        (
            "tiers: [{name: a, model: m, adapters: {b: /b}}, {name: b, model: n}]",
            "two tiers are called 'b', or a tier and an adapter",
        ),
        ("tiers: [{name: a, model: m, adapters: {A: /b}}]", "adapters.A"),
        (
            "tiers: [{name: a, model: m, accelerator: L4, offload: all, adapters: {b: /b}}]",
            "adapters do not go with offload",
        ),
        ("aliases: {base: tiny.en}", "alias 'base' is the name of a tier"),
        ("http: {route_prefix: asr}", "http.route_prefix: .* pattern"),
        ("http: {route_prefix: /asr/}", "http.route_prefix: .* pattern"),
        ("- 1", "must be a mapping"),
        ("a: [", "is not YAML"),
    ],
)
def test_a_mistake_is_named_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        load(tmp_path, text)
    assert len(str(caught.value).splitlines()) == 1


def test_routes_lie_below_any_path() -> None:
    for prefix in ("/", "/a", "/asr", "/speech/v2"):
        assert (
            load_settings(None, {}, {"http": {"route_prefix": prefix}}).http.route_prefix == prefix
        )
    for prefix in ("asr", "/asr/", "//asr", ""):
        with pytest.raises(ConfigError, match="http.route_prefix"):
            load_settings(None, {}, {"http": {"route_prefix": prefix}})


def test_every_mistake_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, "limits: {deadline_s: 0}\nhttp: {port: 70000}")
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("value", ["[sk-a, sk-b]", '["sk-a", "sk-b"]', "- sk-a\n- sk-b"])
def test_a_list_is_yaml_or_json(value: str) -> None:
    keys = load_settings(None, {"MURMUR__AUTH__API_KEYS": value}).auth.api_keys
    assert [key.get_secret_value() for key in keys] == ["sk-a", "sk-b"]


def test_a_section_of_the_environment_leaves_the_rest(tmp_path: Path) -> None:
    text = "limits: {deadline_s: 500, max_upload_mb: 7}\naliases: {a: base}"
    variables = {
        "MURMUR__LIMITS": "{deadline_s: 90}",
        "MURMUR__LIMITS__MAX_REQUESTS": "3",
        "MURMUR__ALIASES__B": "tiny.en",
    }
    settings = load(tmp_path, text, **variables)
    limits = settings.limits
    assert (limits.deadline_s, limits.max_upload_mb, limits.max_requests) == (90, 7, 3)
    assert settings.aliases.items() >= {"a": "base", "b": "tiny.en"}.items()


def test_a_value_has_the_type_of_its_field() -> None:
    """Not that which YAML would see in it."""
    variables = {
        "MURMUR__INGRESS__LABELS__ZONE": "1",
        "MURMUR__HTTP__HOST": "::",
        "MURMUR__ROUTING__CASCADE__ENABLED": "no",
        "MURMUR__TIERS": "[{name: a, model: turbo, precision: null, accelerator: L4}]",
    }
    settings = load_settings(None, variables)
    assert settings.ingress.labels == {"zone": "1"} and settings.http.host == "::"
    assert not settings.routing.cascade.enabled and settings.tiers[0].precision is None


def test_a_key_is_not_in_what_is_said_of_it() -> None:
    with pytest.raises(ConfigError, match="MURMUR__AUTH__API_KEYS: is not YAML: line 1") as caught:
        load_settings(None, {"MURMUR__AUTH__API_KEYS": "[sk-secret"})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("variables", [("PORT", "PORT__X"), ("PORT__X", "PORT")])
def test_one_variable_in_the_place_of_another(variables: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match="MURMUR__HTTP__PORT__X: there is another value"):
        load_settings(None, {f"MURMUR__HTTP__{name}": "1" for name in variables})


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("MURMUR__LIMIT__DEADLINE_S", "1", "limit: there is no such setting"),
        ("MURMUR__LIMITS__DEADLINES", "1", "limits.deadlines: there is no such setting"),
        ("MURMUR__TIERS__0__MODEL", "turbo", "tiers: .* valid tuple"),
        ("MURMUR__AUTH__API_KEYS", "sk-one", "auth.api_keys: .* valid tuple"),
        ("MURMUR__HTTP__PORT__NUMBER", "1", "http.port"),
        ("MURMUR__HTTP", "[", "is not YAML"),
        ("MURMUR__COLOUR", "red", "colour: there is no such setting"),
    ],
)
def test_mistakes_of_the_environment(variable: str, value: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_settings(None, {variable: value})


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(tmp_path / "none.yaml", {})


def test_the_page_is_that_of_the_settings() -> None:
    """`python -m serve.settings.reference > docs/configuration.md`"""
    page = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    assert page == reference.render()


def test_the_example_of_the_page_is_valid(tmp_path: Path) -> None:
    example = reference.render().split("```yaml\n")[1].split("```")[0]
    assert [tier.name for tier in load(tmp_path, example).tiers] == ["turbo", "large"]


def test_the_command_prints_what_it_means(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "murmur.yaml"
    path.write_text("auth: {api_keys: [sesame]}\nhttp: {port: 9000}", encoding="utf-8")
    assert main(["check-config", str(path)]) == 0
    out = capsys.readouterr().out
    assert "sesame" not in out
    values = yaml.safe_load(out)
    assert values["http"]["port"] == 9000 and values["tiers"][0]["name"] == "tiny.en"


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "murmur.yaml"
    path.write_text("http: {port: -1}", encoding="utf-8")
    assert main(["check-config", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("http.port:") and len(err.splitlines()) == 1
