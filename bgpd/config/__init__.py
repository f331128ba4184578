"""This node's YAML: ``config`` the frozen ``Config`` or a ``ConfigError`` with file and key; ``values`` its value
types; ``yaml`` the strict loader."""
