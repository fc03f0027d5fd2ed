"""Every error Remelt raises on purpose, in one tree.

RemeltError                 exit code 1
├── BadInput                exit code 2: what the user gave cannot be used
│   ├── CheckpointRefused   a checkpoint's files break a rule
│   ├── SuiteRefused        a suite's file breaks a rule
│   └── SpecRefused         a study spec breaks a rule
├── Forbidden           exit code 2: the role of who acts does not allow it
├── NotFound                exit code 2: no such pool, suite, study, trial or artefact
├── NoFeasibleCandidate     exit code 3: the study ended without one
├── Unavailable             a server or store did not answer; trying again may help
├── IntegrityError          bytes are not the bytes that were promised
├── EngineFailed            the engine died or hung: retryable
└── TrialRejected           a candidate is bad in itself (non-finite …): never retried
"""

from __future__ import annotations


class RemeltError(Exception):
    """Something Remelt can explain: what happened, where, and how to mend it."""

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", mend: str = "") -> None:
        self.what, self.where, self.mend = what, where, mend
        super().__init__(self.line())

    def line(self) -> str:
        """One line: where, what, the mend."""
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}. {self.mend}" if self.mend else text


class BadInput(RemeltError):
    """The input cannot be used as it is."""

    exit_code = 2


class CheckpointRefused(BadInput):
    """A checkpoint's files break a rule."""


class SuiteRefused(BadInput):
    """A suite's file breaks a rule."""


class SpecRefused(BadInput):
    """A study spec breaks a rule."""


class Forbidden(RemeltError):
    """Who acts may not do this."""

    exit_code = 2


class NotFound(RemeltError):
    """Nothing is registered under that name or id."""

    exit_code = 2


class NoFeasibleCandidate(RemeltError):
    """The study finished, but no candidate meets its constraints."""

    exit_code = 3


class Unavailable(RemeltError):
    """A server or store did not answer."""


class IntegrityError(RemeltError):
    """Stored bytes do not match their digest."""


class EngineFailed(RemeltError):
    """The engine died or hung; the work can be tried again."""


class TrialRejected(RemeltError):
    """The candidate itself is bad (non-finite weights or scores): trying again cannot help."""
