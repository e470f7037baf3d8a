"""Who is told how a run is going: the command line's bars, a test's list, or nobody."""

from typing import Any, Protocol


class Reporter(Protocol):
    """Who is told how a run is going."""

    def started(self, facts: dict[str, Any]) -> None:
        """Once, before the first step."""

    def stepped(self, epoch: int, step: int, steps: int, values: dict[str, float]) -> None:
        """After each step, with its losses and the images a second so far."""

    def judged(self, done: int, total: int) -> None:
        """While photographs are embedded: before the first step, for validation, for test."""

    def warned(self, message: str) -> None:
        """When something looks wrong, with a remedy."""

    def finished_epoch(self, row: dict[str, Any]) -> None:
        """After each epoch, with its line of ``metrics.jsonl``."""


class Silence:
    """The reporter of a process that is not the one to talk."""

    def started(self, facts: dict[str, Any]) -> None:
        """Nothing."""

    def stepped(self, epoch: int, step: int, steps: int, values: dict[str, float]) -> None:
        """Nothing."""

    def judged(self, done: int, total: int) -> None:
        """Nothing."""

    def warned(self, message: str) -> None:
        """Nothing."""

    def finished_epoch(self, row: dict[str, Any]) -> None:
        """Nothing."""
