"""The HTTP routes of OpenAI's API on top of the ingress. Knows nothing of audio."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from fastapi import FastAPI
from ray.serve.handle import DeploymentHandle
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from deployments.entrance.admission import Ticket
from deployments.entrance.ingress import Done, Ingress
from deployments.entrance.readiness import is_ready
from deployments.entrance.rules import Rules
from deployments.options import AUTO
from engine.request import Task
from serve.http.answers import (
    MEDIA_TYPES,
    EventStream,
    TokenNames,
    audio_headers,
    render_body,
    routing_account,
)
from serve.http.auth import Auth
from serve.http.deepgram.routes import Deepgram, add_deepgram_routes
from serve.http.docs import describe_form, describe_json, describe_raw
from serve.http.errors import answer_error, to_http_error
from serve.http.fields import (
    DetectionFields,
    FieldError,
    Fields,
    TranscriptionFields,
    TranslationFields,
    parse_fields,
)
from serve.http.formats import detection_object, warnings_object
from serve.http.lenient import LenientRequests
from serve.http.page.routes import add_page
from serve.http.read_ahead import bound_replica, is_bounded
from serve.http.realtime.routes import Realtime, add_realtime_routes
from serve.http.realtime.secrets import cluster_key
from serve.http.receiving import Receiving, Reception, UploadLimits
from serve.http.rules import rules_of, upload_limits
from serve.http.streaming import Events, stream_answer
from serve.http.subtitles import MAX_BYTES, SubtitleRequest, lay_out_subtitles, parse_subtitles
from serve.http.upload import (
    ReadUpload,
    Upload,
    declared_bytes,
    is_form,
    read_body,
    read_raw_upload,
    read_upload,
)
from serve.settings.api_keys import key_sums
from serve.settings.deployments import EXPECTED_RTFX, sections_of
from serve.settings.loading import load_settings

_DEFAULT_MODEL = "whisper-1"
"""Of `POST /transcribe`. Settings always have it."""


class HttpIngress(Ingress):
    """The ingress with HTTP routes."""

    _auth: Auth

    def __init__(
        self, tiers: Mapping[str, DeploymentHandle[Any]], board: DeploymentHandle[Any]
    ) -> None:
        super().__init__(tiers, board)
        bound_replica()
        self.reception = Reception(UploadLimits(0, 0, 0.0, 0.0))
        self.realtime = Realtime(
            self.live_sessions, self._names_of, lambda: self._auth, cluster_key
        )
        self.deepgram = Deepgram(self.live_sessions, lambda: self._auth, self._knows, self.done)

    # On the event loop, where Serve calls coroutines: a request sees all of a change or nothing.
    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Called by Serve with the deployment's `user_config`.

        Args:
            user_config: sections of the settings, which the environment overrides, and speeds.

        Raises:
            ConfigError: the settings are wrong.
        """
        settings = load_settings(values=sections_of(user_config))
        self._auth = Auth(key_sums(settings.auth))
        self.shows_page = settings.http.page
        self._max_upload_bytes = round(settings.limits.max_upload_mb * 1e6)
        self.reception.limits = upload_limits(settings.limits)
        self.configure(rules_of(settings, user_config[EXPECTED_RTFX]))

    # Serve calls this after the constructor and routes requests to the app that it returns.
    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_api(self)

    async def answer(self, request: Request, task: Task, kind: type[TranslationFields]) -> Response:
        """Transcribe or translate an upload."""
        events, fields, names = await self._admitted(request, task, kind)
        return await _answer(events, fields, names, _request_id(request))

    async def answer_text(self, request: Request) -> Response:
        """Transcribe a body that is the file itself, or a form: the text alone."""
        done = await self.done(request, "transcribe", TranslationFields, _read_any)
        return JSONResponse({"text": done.transcript.text}, headers=audio_headers(done.transcript))

    async def detect(self, request: Request) -> Response:
        """Detect the language of an upload."""
        done = await self.done(request, "detect_language", DetectionFields)
        body = detection_object(done.transcript) | _account(done)
        return JSONResponse(body, headers=audio_headers(done.transcript))

    async def done(
        self, request: Request, task: Task, kind: type[Fields], read: ReadUpload = read_upload
    ) -> Done:
        """Admit a request, and do all that it asks for.

        Args:
            read: reads its body.
        """
        events, _, _ = await self._admitted(request, task, kind, read)
        return await _last(events)

    def check_key(self, request: Request) -> None:
        """Check a request's key.

        Raises:
            UnauthorizedError: the key is missing or not accepted.
        """
        self._auth.check(request)

    async def _admitted(
        self, request: Request, task: Task, kind: type[Fields], read: ReadUpload = read_upload
    ) -> tuple[Events, Fields, TokenNames | None]:
        """Admit a request, then read and check its body: see `_begin`."""
        request_id = _request_id(request)
        rules = self.rules
        ticket: Ticket | None = None
        try:
            self._auth.check(request)
            self.admission.check()  # before the body is read
            upload = await self._receive(request, read)
            try:
                ticket = self.admission.admit()
                return await self._begin(request, task, kind, ticket, rules, upload)
            finally:
                await upload.close()  # a run that has begun has a file of its own
        except BaseException as error:
            if ticket is not None:
                ticket.close()
            self.account_refusal(_kind(error), request_id)
            raise

    async def _receive(self, request: Request, read: ReadUpload) -> Upload:
        """Read the body. Until it is here, a request is counted as an upload alone."""
        max_bytes, caller = self._max_upload_bytes, self._auth.caller(request)
        ahead = not is_bounded(request.scope)
        with self.reception.receive(declared_bytes(request), caller, ahead) as receiving:
            return await read(request, max_bytes, self.reception, receiving)

    async def read_small(self, request: Request, max_bytes: int) -> bytes:
        """Read a body to memory, counted as an upload."""
        caller = self._auth.caller(request)
        ahead = not is_bounded(request.scope)
        with self.reception.receive(declared_bytes(request), caller, ahead) as receiving:
            return await read_body(request, max_bytes, self.reception, receiving)

    async def _begin(
        self,
        request: Request,
        task: Task,
        kind: type[Fields],
        ticket: Ticket,
        rules: Rules,
        upload: Upload,
    ) -> tuple[Events, Fields, TokenNames | None]:
        """Check the body.

        Returns:
            The run, which has not started; the fields; names of tokens if log-probabilities are
            wanted.
        """
        fields = parse_fields(upload.fields, kind)
        if upload.file is None:
            raise FieldError("file must be given", "file", "missing_required_parameter")
        options = fields.options(task)
        names = None
        if isinstance(fields, TranscriptionFields) and fields.include:
            names = await self._token_names(self.resolve(options.model, rules))
            rules = replace(rules, canaries={})  # tokens of another model have other names
        request_id = _request_id(request)
        streams = isinstance(fields, TranslationFields) and fields.stream
        events = self.run(upload.source(), options, streams, request_id, ticket, rules)
        return events, fields, names

    def _knows(self, model: str) -> bool:
        rules = self.rules
        return model in (*self.tiers, *rules.routing.adapters, AUTO, *rules.aliases)

    async def _names_of(self, model: str) -> TokenNames:
        return await self._token_names(self.resolve(model, self.rules))

    async def _token_names(self, model: str) -> TokenNames:
        if model == AUTO:
            raise FieldError(
                f"include=logprobs needs a model other than {AUTO!r}: tokens differ between models",
                "include",
                "unsupported",
            )
        tier = self.rules.routing.adapters.get(model, model)
        return TokenNames(await self.tiers[tier].vocabulary())


async def _read_any(
    request: Request, max_bytes: int, reception: Reception, receiving: Receiving
) -> Upload:
    """Read a form, or a body that is the file itself, for `POST /transcribe`.

    Raises:
        FieldError: a field is given that would change the answer's form.
    """
    read = read_upload if is_form(request) else read_raw_upload
    upload = await read(request, max_bytes, reception, receiving)
    given = {name for name, value in upload.fields if value}
    for name in given & {"response_format", "stream"}:
        await upload.close()
        message = f"{name} is for /v1/audio/transcriptions: this route answers with the text alone"
        raise FieldError(message, name, "unsupported")
    if "model" not in given:
        upload.fields.append(("model", _DEFAULT_MODEL))
    return upload


async def _answer(
    events: Events, fields: TranslationFields, names: TokenNames | None, request_id: str
) -> Response:
    if fields.stream:
        stream = EventStream(fields.response_format, names, fields.cue_limits)
        return await stream_answer(events, stream, _account, request_id)
    done = await _last(events)
    granularities = getattr(fields, "timestamp_granularities", ())
    more = _account(done)
    body = render_body(
        done.transcript, fields.response_format, granularities, names, more, fields.cue_limits
    )
    timing = ", ".join(f"{k};dur={1000 * v:.2f}" for k, v in done.work.stages_s.items())
    media_type = MEDIA_TYPES[fields.response_format]
    headers = {"server-timing": timing, **audio_headers(done.transcript)}
    return Response(body, media_type=media_type, headers=headers)


def _account(done: Done) -> dict[str, Any]:
    """Fields beside OpenAI's: which tiers did the work, its cost, and what could not be read."""
    account: dict[str, Any] = {"murmur": routing_account(done.transcript, done.work, done.usd)}
    warnings = warnings_object(done.transcript)
    return {"warnings": warnings, **account} if warnings else account


def _kind(error: BaseException) -> str:
    """The name in metrics of an error that ends a request before its run."""
    if not isinstance(error, Exception):
        return "cancelled"
    return to_http_error(error).code or "fault"


def build_api(ingress: HttpIngress) -> FastAPI:
    """The FastAPI app with the routes of an ingress."""
    api = FastAPI(title="Murmur", description="Whisper speech recognition, as OpenAI's API has it.")
    api.add_exception_handler(Exception, answer_error)
    api.add_exception_handler(HTTPException, answer_error)
    api.add_middleware(LenientRequests)

    @api.post("/v1/audio/transcriptions", openapi_extra=describe_form(TranscriptionFields))
    @_in_words
    async def transcriptions(request: Request) -> Response:
        """Transcribe speech in its own language."""
        return await ingress.answer(request, "transcribe", TranscriptionFields)

    @api.post("/v1/audio/translations", openapi_extra=describe_form(TranslationFields))
    @_in_words
    async def translations(request: Request) -> Response:
        """Translate speech to English text."""
        return await ingress.answer(request, "translate", TranslationFields)

    @api.post("/v1/audio/detect-language", openapi_extra=describe_form(DetectionFields))
    @_in_words
    async def detect_language(request: Request) -> Response:
        """Tell the language of speech, with the probabilities of all."""
        return await ingress.detect(request)

    @api.post("/transcribe", openapi_extra=describe_raw(TranslationFields))
    @_in_words
    async def transcribe(request: Request) -> Response:
        """Transcribe a body that is the audio itself, or a form: `{"text": ...}`."""
        return await ingress.answer_text(request)

    @api.post("/v1/audio/subtitles", openapi_extra=describe_json(SubtitleRequest))
    @_in_words
    async def subtitles(request: Request) -> Response:
        """Lay out a transcript, corrected perhaps, as subtitles or a table."""
        ingress.check_key(request)
        asked = parse_subtitles(await ingress.read_small(request, MAX_BYTES))
        return PlainTextResponse(await lay_out_subtitles(asked))

    add_realtime_routes(api, lambda: ingress.realtime, _in_words, ingress.check_key)
    add_deepgram_routes(api, lambda: ingress.deepgram)

    @api.get("/v1/models")
    @_in_words
    async def models(request: Request) -> Response:
        """List the tiers, their adapters and all aliases."""
        ingress.check_key(request)
        rules = ingress.rules
        names = [*ingress.tiers, *rules.routing.adapters, AUTO, *rules.aliases]
        return JSONResponse({"object": "list", "data": [_model(ingress, name) for name in names]})

    @api.get("/v1/models/{model:path}")
    @_in_words
    async def model(request: Request) -> Response:
        """Look up one tier, adapter or alias."""
        ingress.check_key(request)
        name = request.path_params["model"]
        ingress.resolve(name, ingress.rules)
        return JSONResponse(_model(ingress, name))

    @api.get("/v1/cluster")
    @_in_words
    async def cluster(request: Request) -> Response:
        """Tiers with their replicas, queues, speed and price, and the autoscaler's decisions."""
        ingress.check_key(request)
        return JSONResponse(await ingress.board.cluster.remote())

    @api.get("/v1/cluster/history")
    @_in_words
    async def history(request: Request) -> Response:
        """The cluster's last hour in numbers, from the time `since` on."""
        ingress.check_key(request)
        return JSONResponse(await ingress.board.history.remote(_since(request)))

    @api.delete("/v1/cluster/requests/{id}")
    @_in_words
    async def stop(request: Request) -> Response:
        """Stop a request that is under way; its caller gets the error `stopped`."""
        ingress.check_key(request)
        run_id = request.path_params["id"]
        if not await ingress.board.stop.remote(run_id):
            raise HTTPException(404, "no such request is under way")
        return JSONResponse({"id": run_id, "stopping": True}, 202)

    @api.get("/healthz")
    async def live() -> dict[str, str]:
        """Whether this process answers."""
        return {"status": "ok"}

    @api.get("/readyz")
    @_in_words
    async def ready(request: Request) -> Response:
        """Whether at least one tier decodes real chunks, and which tiers do."""
        tiers = await ingress.ready()
        ready = is_ready(tiers)
        body = {"status": "ready" if ready else "not ready", "tiers": tiers}
        return JSONResponse(body, 200 if ready else 503)

    add_page(api, lambda: ingress.shows_page, lambda: ingress.rules.limits.live.max_sessions > 0)
    return api


def _in_words(
    route: Callable[[Request], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    """Wrap a route so that its exceptions become answers with their own status.

    The app's handler for Exception would answer them, too, but Starlette raises the exception again
    after the answer, and Serve would count a crash.
    """

    async def guarded(request: Request) -> Response:
        try:
            return await route(request)
        except Exception as error:  # outermost handler: the client is told of any error
            return await answer_error(request, error)

    guarded.__name__, guarded.__doc__ = route.__name__, route.__doc__
    return guarded


async def _last(events: Events) -> Done:
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Done):
                return event
    raise AssertionError("a run ends with Done or raises")


def _model(ingress: Ingress, name: str) -> dict[str, Any]:
    root = ingress.rules.aliases.get(name, name)
    return {"id": name, "object": "model", "created": 0, "owned_by": "murmur", "root": root}


def _since(request: Request) -> float:
    try:
        return float(request.query_params.get("since", "0"))
    except ValueError as error:
        raise FieldError("since must be seconds since 1970", "since") from error


def _request_id(request: Request) -> str:
    return request.headers.get("x-request-id", "")
