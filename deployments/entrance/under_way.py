"""The runs of one ingress that are under way: how far each is, and how to stop one."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from deployments.entrance.accounting import RequestRecord
from deployments.entrance.admission import Ticket
from deployments.entrance.callers import RunEnd
from deployments.reports import RunReport

_MOST = 100
"""Runs in a report: the oldest."""


@dataclass(frozen=True, slots=True)
class _Run:
    record: RequestRecord
    ticket: Ticket
    end: RunEnd
    began: float

    def report(self) -> RunReport:
        options, ticket = self.record.options, self.ticket
        return RunReport(
            id=self.record.run,
            model=options.model,
            tier=self.record.tier,
            task=options.task,
            priority=options.priority,
            began=self.began,
            audio_s=ticket.declared_s or None,
            done_s=round(ticket.done_s, 2),
        )


class UnderWay:
    """Knows the runs while they are in its context."""

    def __init__(self) -> None:
        self._runs: dict[str, _Run] = {}

    @contextmanager
    def run(self, record: RequestRecord, ticket: Ticket, end: RunEnd) -> Iterator[None]:
        """Within this context the run is reported, and may be stopped."""
        self._runs[record.run] = _Run(record, ticket, end, time.time())
        try:
            yield
        finally:
            del self._runs[record.run]

    def reports(self) -> tuple[RunReport, ...]:
        """The oldest runs, the oldest first."""
        return tuple(run.report() for run in list(self._runs.values())[:_MOST])

    def __len__(self) -> int:
        return len(self._runs)

    def stop(self, ids: Iterable[str]) -> None:
        """Stop those of these runs that are here."""
        for run_id in ids:
            if run := self._runs.get(run_id):
                run.end.stop()
