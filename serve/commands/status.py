"""`murmur status`: the state of the application and its tiers, once or repeatedly."""

import json
import os
import sys
import time
from contextlib import suppress
from typing import Any, Literal

import yaml
from rich.live import Live

from serve.commands.application import application_status, board_state
from serve.commands.connection import connected, given_address, guarded, running_here
from serve.commands.exit_codes import EXIT_FAILED, EXIT_OK
from serve.commands.status_table import status_table
from serve.commands.tables import is_terminal, show, terminal

Form = Literal["table", "json", "yaml"]


def status(address: str | None, form: Form = "table", every_s: float | None = None) -> int:
    """Print the state of the application and its tiers; returns 0 if it serves.

    Args:
        form: `json` and `yaml` give what Serve reports, for programs.
        every_s: seconds between repeated prints, until interrupted; None: print once.
    """
    return guarded(lambda: _status(address, form, every_s))


def _status(address: str | None, form: Form, every_s: float | None) -> int:
    found = given_address(address)
    if found is None:
        found, environment = running_here()
        os.environ.update(environment)
    with connected(found):
        if every_s is None:
            application = application_status()
            _print(found, application, form)
        else:
            application = _watch(found, form, every_s)
    return EXIT_OK if application["status"] == "RUNNING" else EXIT_FAILED


def _watch(address: str, form: Form, every_s: float) -> dict[str, Any]:
    """Print the state until interrupted; returns the last one."""
    application = application_status()
    with suppress(KeyboardInterrupt):
        if form == "table" and is_terminal():
            with Live(console=terminal(), auto_refresh=False) as screen:
                while True:
                    screen.update(status_table(address, application, board_state()), refresh=True)
                    time.sleep(every_s)
                    application = application_status()
        while True:
            if form == "yaml":
                print("---")
            _print(address, application, form)
            time.sleep(every_s)
            application = application_status()
    return application


def _print(address: str, application: dict[str, Any], form: Form) -> None:
    if form == "table":
        show(status_table(address, application, board_state()))
    elif form == "json":
        print(json.dumps({"address": address, **application}, ensure_ascii=False))
    else:
        print(yaml.safe_dump({"address": address, **application}, sort_keys=False), end="")
    sys.stdout.flush()
