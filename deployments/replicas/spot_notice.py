"""Polls a cloud's metadata service for the notice that it will take a spot machine away.

The clouds document the protocols: "Spot Instance interruption notices" and "Use IMDSv2" in Amazon
EC2's documentation, "Preemptible VM instances" and "VM metadata" in Compute Engine's. This module
does not import Ray.
"""

import datetime
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

_TIMEOUT_S = 5.0
_AWS_HOST = "http://169.254.169.254"
_AWS_TOKEN_S = 21600
_AWS_NOTICE_S = 120.0
_GCP_HOST = "metadata.google.internal"
_GCP_NOTICE_S = 30.0
_GOING = ("terminate", "stop", "hibernate")


@dataclass(frozen=True, slots=True)
class SpotNotice:
    """The machine will be taken away at `deadline` (seconds since 1970)."""

    deadline: float


class MetadataService(Protocol):
    """A cloud's metadata service, as a machine of that cloud sees it."""

    def notice(self) -> SpotNotice | None:
        """The notice, if there is one; None: the machine stays, as far as is known.

        Raises:
            OSError: the service does not answer.
            ValueError: the answer is not valid.
        """


class AwsMetadata:
    """EC2's metadata service, with session tokens (IMDSv2).

    Args:
        host: URL of the service; by default AWS_EC2_METADATA_SERVICE_ENDPOINT, as in AWS's clients.
    """

    def __init__(self, host: str | None = None) -> None:
        chosen = host or os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or _AWS_HOST
        self._host = chosen.rstrip("/")
        self._token: str | None = None

    def notice(self) -> SpotNotice | None:
        if self._token is None:
            self._token = self._new_token()
        try:
            path = "/latest/meta-data/spot/instance-action"
            answer = _ask(self._host + path, {"X-aws-ec2-metadata-token": self._token})
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            self._token = None  # it has expired, or is from before the machine hibernated
            raise
        return _aws_notice(answer)

    def _new_token(self) -> str:
        header = {"X-aws-ec2-metadata-token-ttl-seconds": str(_AWS_TOKEN_S)}
        return _ask(f"{self._host}/latest/api/token", header, "PUT")


class GcpMetadata:
    """Compute Engine's metadata service. It says only that the machine will go, which leaves 30 s.

    Args:
        host: host of the service; by default GCE_METADATA_HOST, as in Google's clients.
        clock: the time, in seconds since 1970.
    """

    def __init__(self, host: str | None = None, clock: Callable[[], float] = time.time) -> None:
        chosen = host or os.environ.get("GCE_METADATA_HOST") or _GCP_HOST
        self._url = f"http://{chosen}/computeMetadata/v1/instance/preempted"
        self._clock = clock

    def notice(self) -> SpotNotice | None:
        answer = _ask(self._url, {"Metadata-Flavor": "Google"}).strip()
        if answer not in ("TRUE", "FALSE"):
            raise ValueError(f"the metadata service says {answer!r}")
        return SpotNotice(self._clock() + _GCP_NOTICE_S) if answer == "TRUE" else None


SERVICES: Mapping[str, Callable[[], MetadataService]] = {"aws": AwsMetadata, "gcp": GcpMetadata}


def wait_for_notice(
    service: MetadataService,
    every_s: float,
    say: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> SpotNotice:
    """Poll the service until it says that the machine will go.

    Args:
        every_s: seconds between two polls.
        say: called with each error message, but not again while the message stays the same.
    """
    said = ""
    while True:
        try:
            found = service.notice()
        except (OSError, ValueError) as error:
            if str(error) != said:
                said = str(error)
                say(f"no word from the metadata service: {said}")
        else:
            said = ""
            if found is not None:
                return found
        sleep(every_s)


def _aws_notice(answer: str) -> SpotNotice | None:
    body = json.loads(answer)
    if not isinstance(body, dict) or body.get("action") not in _GOING:
        raise ValueError(f"the metadata service says {answer!r}")
    if "time" not in body:  # when a hibernation is announced, it has already begun
        return SpotNotice(time.time() + _AWS_NOTICE_S)
    return SpotNotice(datetime.datetime.fromisoformat(str(body["time"])).timestamp())


def _ask(url: str, headers: dict[str, str], method: str = "GET") -> str:
    request = urllib.request.Request(url, headers=headers, method=method)
    # Never through a proxy, because the service identifies the machine by its connection.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=_TIMEOUT_S) as response:
        return str(response.read().decode())
