"""The door to the peers' liveness: Bidirectional Forwarding Detection (RFC 5880 to 5883).

``session`` is one session, sans-IO; ``packet`` knows the octets; ``speaker`` has all sessions, their sockets and the
thread in which they live. ``daemon`` says which are wanted and ends the BGP sessions that depend on one that failed.
"""
