"""Checkers: what clients were told, and whether a correct cluster could have told it."""

from simulations.checking.check import Evidence, check
from simulations.checking.history import History
from simulations.checking.operations import HistoryInvalid
from simulations.checking.verdict import Status, Verdict, Violation

__all__ = ["Evidence", "History", "HistoryInvalid", "Status", "Verdict", "Violation", "check"]
