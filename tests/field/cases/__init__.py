"""All cases, in a module for each subject."""

from tests.field.case import Case
from tests.field.cases import (
    channels,
    clock,
    command_line,
    damage,
    errors,
    fields,
    forms,
    jobs,
    languages,
    sizes,
    speech,
    streams,
)

_GROUPS = (
    speech,
    clock,
    damage,
    sizes,
    channels,
    languages,
    fields,
    forms,
    errors,
    streams,
    jobs,
    command_line,
)


def all_cases() -> list[Case]:
    cases = [case for group in _GROUPS for case in group.CASES]
    names = [case.name for case in cases]
    assert len(set(names)) == len(names), "names are rows' keys"
    return cases
