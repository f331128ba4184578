"""The door to Linux: our routes in its table, and what of it surrounds this node. ``kernel.Kernel`` is the way in.

``rtnetlink`` knows the octets and ``sockets`` the sockets. ``fib`` owns our routes of one family, with ``installed``
(what is there), ``writer`` (batches) and ``nexthop_objects`` (the kernel's nexthop objects). ``foreign`` keeps routes
of others, ``nexthop_tracking`` resolves through them, and ``rivals`` finds who else writes routes of our protocol.
"""
