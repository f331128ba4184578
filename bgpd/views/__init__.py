"""What the operator may see: rows, statuses and explanations, made from the live parts on demand.

The text side of the daemon: it reads the router, the programmers and the doors and changes nothing. ``live`` is what
all of it reads, ``tables`` the rows of ``bgpctl routes``, ``why`` the explanations, ``summary`` the status screen and
the checks. ``daemon`` calls them, and hands itself to ``observe``.
"""
