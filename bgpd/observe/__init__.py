"""The door to the operator: ``api`` on the control socket, ``metrics`` for Prometheus, ``log``, and word to systemd
(``sdnotify``)."""
