"""Reporting: logs, progress, charts and pages of runs."""
