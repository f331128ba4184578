"""Files that several programs name: the configuration, and which of a directory are resources. Light to import."""

from __future__ import annotations

DEFAULT_CONFIG = "/etc/bgpd/bgpd.yaml"
"""What the daemon, its commands and the plugins read where nothing else is named."""
RESOURCE_SUFFIXES = (".yaml", ".yml", ".json")


def is_resource(name: str) -> bool:
    """Whether a file of a directory of resources is read, by its name."""
    return name.endswith(RESOURCE_SUFFIXES) and not name.startswith(".")
