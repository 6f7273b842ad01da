"""Errors of the engine.

EngineError
|-- ModelNotFoundError      the name is no folder, demo model or hub id that can be had
|-- WeightsError            files are there but wrong: hash, format, a missing or misshapen tensor
|-- RequestError            a request that this model cannot serve (also a ValueError)
"""


class EngineError(Exception):
    """Base of all errors raised by the engine."""


class ModelNotFoundError(EngineError):
    """No weights for that model name."""


class WeightsError(EngineError):
    """The weight files cannot be used."""


class RequestError(EngineError, ValueError):
    """The request asks for something that the loaded model cannot do."""
