"""The wiring of one node: ``daemon`` its life; ``daemon.intent`` resources and configuration, to sessions, policy and
originations; ``admin`` what the operator orders; ``startup`` when a start is over (restart deferral, RFC 4724)."""
