"""Errors of the engine.

EngineError
|-- ModelNotFoundError      the name is no folder, demo model or hub id that can be had
|-- WeightsError            files are there but wrong: hash, format, a missing or misshapen tensor
|-- PrecisionError          the device does not have the number format
|-- ShardingError           the model cannot be split over ranks as asked
|   `-- NoRoomError         no split of it fits the devices' memory
|-- GangError               a rank of a gang failed, died or hangs
|-- RequestError            a request that this model cannot serve (also a ValueError)
"""


class EngineError(Exception):
    """Base of all errors raised by the engine."""


class ModelNotFoundError(EngineError):
    """No weights for that model name."""


class WeightsError(EngineError):
    """The weight files cannot be used."""


class PrecisionError(EngineError):
    """The device does not have the number format."""


class ShardingError(EngineError):
    """The model cannot be split over ranks as asked."""


class NoRoomError(ShardingError):
    """No split of the model fits the devices' memory."""


class GangError(EngineError):
    """A rank of a gang failed, died or hangs; the gang has to be replaced as a whole."""


class RequestError(EngineError, ValueError):
    """The request asks for something that the loaded model cannot do."""
