"""The one tree of errors.

Every error says what happened, to which thing, and what to do next. Its `code` is also the
dead-letter header, the metric label and, through `exit_status`, the exit status of the command.
"""

from __future__ import annotations

from enum import StrEnum

HEADER_ERROR = "foreshard-error"
HEADER_REASON = "foreshard-reason"
HEADER_SOURCE = "foreshard-source"


class BadRequest(StrEnum):
    """Why a request went to the dead-letter topic. The value is the `foreshard-error` header."""

    EMPTY_VALUE = "empty-value"
    NOT_JSON = "not-json"
    NOT_UTF8 = "not-utf8"
    NESTED_TOO_DEEP = "nested-too-deep"
    TYPE_MISSING = "type-missing"
    TYPE_NOT_TEXT = "type-not-text"
    TYPE_UNKNOWN = "type-unknown"
    KEY_MISSING = "key-missing"
    KEY_NOT_SCALAR = "key-not-scalar"
    TOO_LARGE = "too-large"
    REFUSED_BY_BROKER = "refused-by-broker"


class ForeshardError(Exception):
    """Base of all errors of this program; `code` names it, `exit_status` is the process's."""

    code: str = "error"
    exit_status: int = 1


class ConfigError(ForeshardError):
    """The configuration has mistakes; `mistakes` lists all of them."""

    code = "config"
    exit_status = 3

    def __init__(self, mistakes: list[str]) -> None:
        self.mistakes = list(mistakes)
        count = len(self.mistakes)
        lines = "\n".join(f"  {number}. {text}" for number, text in enumerate(self.mistakes, 1))
        super().__init__(f"the configuration has {count} mistake{'s' * (count != 1)}:\n{lines}")


class BadRequestError(ForeshardError):
    """One request cannot be routed; `code` is the BadRequest that names why."""

    def __init__(self, bad: BadRequest, reason: str) -> None:
        self.code = bad.value
        self.bad = bad
        super().__init__(reason)


class NoKafkaError(ForeshardError):
    """No way to reach or start a Kafka broker was found."""

    code = "no-kafka"
    exit_status = 4


class BrokerUnreachableError(ForeshardError):
    """The configured broker did not answer."""

    code = "broker-unreachable"
    exit_status = 4


class TopicError(ForeshardError):
    """A topic is missing, or its settings break a promise."""

    code = "topic"
    exit_status = 5


class RulesMismatchError(ForeshardError):
    """N or the key rules differ from those the mapping was made with."""

    code = "rules-mismatch"
    exit_status = 6


class MappingError(ForeshardError):
    """A mapping record or plan is not valid: it does not tile, or names an unknown cluster."""

    code = "mapping-invalid"
    exit_status = 7


class StaleError(MappingError):
    """A mapping record has a lower epoch or version than one already read."""

    code = "mapping-stale"


class FencedError(ForeshardError):
    """A newer leader has taken over; this process may not write any more."""

    code = "fenced"
    exit_status = 8


class ProtocolError(ForeshardError):
    """The router failed three times in a row while the broker was reachable."""

    code = "router-failed"
    exit_status = 9


class InvalidRecordError(ForeshardError):
    """A control record (metrics, event, command, mapping, ...) cannot be accepted."""

    code = "invalid-record"
    exit_status = 2


class UnknownClusterError(ForeshardError):
    """A command or lookup names a cluster that is not registered."""

    code = "unknown-cluster"
    exit_status = 2


class RescueError(ForeshardError):
    """The rescue of a dead cluster cannot go on; what it moved stays moved."""

    code = "rescue-stopped"
    exit_status = 10


class NotReadyError(ForeshardError):
    """What was asked for is not there yet: no mapping, no leader, no answer in time."""

    code = "not-ready"
    exit_status = 10
