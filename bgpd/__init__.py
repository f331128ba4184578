"""bgpd: a BGP route distributor for container nodes.

One process a node. Three sources of truth come in (resources, peers, the kernel), one writer decides, two targets are
kept equal to what it decided: what peers hear and what the kernel forwards.

The rooms, top down. Imports go down only, and rooms of one floor do not know each other:

=====  ====================================================================================================
floor  rooms
=====  ====================================================================================================
6      ``cli`` the commands: bgpd (the daemon and its offline tools) and bgpctl (talks to a running one);
       ``cni`` the plugins that a container runtime runs
5      ``daemon`` the wiring: life, intent (resources and configuration, to sessions, policy, originations),
       admin (the operator's orders), startup (when a start is over)
4      ``views`` what the operator sees, made of the live parts
3      the doors: ``bgp`` to the peers, ``bfd`` to their liveness, ``datastore`` to the intent, ``kernel`` to Linux,
       ``observe`` to the operator
2      ``rib`` the tables and their single writer: events in, changes out;
       ``fib`` keeps the kernel equal to what is wanted
1      ``rules`` the decisions, pure
0      ``model`` the words: frozen values; ``config`` this node's YAML; ``events`` what the log says;
       ``lean_import`` a corner of a large package; ``descriptors`` how many there are, and for whom the last are kept
=====  ====================================================================================================

RFCs followed: 4271 (BGP-4), 4760 (multiprotocol), 6793 (four-octet AS), 4456 (route reflection), 2918 and 7313 (route
refresh), 4724 (graceful restart), 8538 (over a NOTIFICATION too) and 9494 (long-lived), 7911 (ADD-PATH), 8950 and 2545
(IPv6 next hops), 7606 (error handling of UPDATE), 8212 in spirit (nothing is exported that no rule lets out), 1997,
3765 and 8092 (communities), 8326 (graceful shutdown), 2385 (TCP MD5), 5082 (GTSM), 9003 (shutdown communication), 4486
and 9384 (Cease subcodes), 5880 to 5883 (BFD).
"""

__version__ = "0.1.0"
