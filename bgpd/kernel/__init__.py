"""The door to Linux: our routes in its table, and what of it surrounds this node. ``door.Kernel`` is the way in.

``rtnetlink`` knows the octets and ``sockets`` the sockets. ``fib`` owns our routes of one family, with ``held`` (what
is there), ``writer`` (batches) and ``nexthops`` (the kernel's nexthop objects). ``others`` keeps routes of others,
``neighbours`` resolves through them, and ``rivals`` finds who else writes routes of our protocol.
"""
