"""The report: one self-contained page that shows what a run folder holds."""

from outdo.report.page import build

__all__ = ["build"]
