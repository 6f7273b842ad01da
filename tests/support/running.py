"""Run requests through an engine."""

from collections.abc import Iterable

from engine import Engine, Request, Result


def run(engine: Engine, requests: Iterable[Request]) -> dict[str, Result]:
    """Run requests to their end; returns the results by request id."""
    for request in requests:
        engine.add_request(request)
    return drain(engine)


def drain(engine: Engine) -> dict[str, Result]:
    """Step until no request is left; returns the results by request id."""
    results = {}
    while engine.has_unfinished:
        for result in engine.step():
            assert result.request_id not in results, "a result came twice"
            results[result.request_id] = result
    return results


def run_alone(engine: Engine, request: Request) -> Result:
    return run(engine, [request])[request.request_id]
