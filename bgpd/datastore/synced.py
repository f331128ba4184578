"""The mark in a directory of resources that ``mirror`` keeps current, and ``files`` reads."""

SYNCED = ".synced"
"""An empty file; its time of modification is when the directory was last known to be true."""
LATE_SECONDS = 60.0
"""Seconds after which a directory whose mark was not renewed counts as no longer kept."""
