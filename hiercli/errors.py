"""Every error that `hier` raises on purpose, and the exit code each one ends with.

::

    HierError                  2   wrong usage or input
    ├── InputError             2   a path, folder, table or option that cannot be used
    │   ├── ImageError         2   one picture that cannot be read
    │   └── DataError          2   a data set that is missing, incomplete or too small
    ├── DownloadError          2   a transfer that failed or did not match its checksum
    ├── FileFormatError        2   a file that is not what its name or its use says
    ├── TrainingError          2   a run that cannot go on (diverged, folder taken)
    ├── ExportError            2   an exported encoder that does not agree with its source
    ├── ServerError            2   a server that cannot be reached, or is too busy
    ├── MissingExtraError      2   a part of the installation that was left out
    ├── MismatchError          4   two sound files that do not belong together
    ├── InterruptError       130   Ctrl-C, where there is more to say than that
    └── ReportedError          *   a process that was started for the work has failed and said why

Three more exit codes do not come from these: 0 (done), 3 (done, but some inputs were skipped, each
one named) and 1 (a fault of hier itself, with a file that says where). Every interrupt ends with
130.

A message says what was expected, what came, and what to do next, in that order.
"""

EXIT_DONE = 0
EXIT_FAULT = 1
EXIT_INPUT = 2
EXIT_SKIPPED = 3
EXIT_MISMATCH = 4
EXIT_INTERRUPTED = 130


class HierError(Exception):
    """Base of the tree: a problem that the user can act on, said in one message."""

    exit_code = EXIT_INPUT


class InputError(HierError):
    """A path, folder, table or option that cannot be used as it stands."""


class ImageError(InputError):
    """One picture that cannot be read. The batch it came in goes on without it."""


class DataError(InputError):
    """A data set that is missing, incomplete or too small for what was asked."""


class DownloadError(HierError):
    """A transfer that broke off for good, or whose bytes do not match the checksum."""


class FileFormatError(HierError):
    """A file that is not what its name or its use says: foreign, damaged or hostile."""


class TrainingError(HierError):
    """A training run that cannot start or cannot go on."""


class ExportError(HierError):
    """An exported encoder whose answers differ from its checkpoint by more than allowed."""


class ServerError(HierError):
    """A server of `hier serve` that cannot be reached, or that is too busy to answer."""


class MissingExtraError(HierError, ImportError):
    """A package of an extra that is not installed; the message has the command that installs it."""


class MismatchError(HierError):
    """Two sound files that do not belong together, by fingerprint, curvature or dimension."""

    exit_code = EXIT_MISMATCH


class InterruptError(HierError):
    """The user's Ctrl-C, with a word on how to go on."""

    exit_code = EXIT_INTERRUPTED


class ReportedError(HierError):
    """A process that was started for the work ended with ``exit_code`` and has said why."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"a process ended with exit code {exit_code}")
        self.exit_code = exit_code
