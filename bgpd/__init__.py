"""bgpd: a BGP route distributor for container nodes.

One process a node. Three sources of truth come in (resources, peers, the kernel), one writer decides, two targets are
kept equal to what it decided: what peers hear and what the kernel forwards.

The rooms, top down; imports go down only, and rooms of one floor do not know each other (on floor 4 ``daemon`` uses
``views``, and both ``programming``):

=====  ====================================================================================================
floor  rooms
=====  ====================================================================================================
5      ``cli`` the commands: bgpd (the daemon and its offline tools) and bgpctl (talks to a running one)
4      ``daemon`` the wiring: one TaskGroup, signals, readiness; ``views`` what the operator sees, made of the
       live parts; ``intent`` resources and configuration, to sessions, policy and originations;
       ``programming`` what is wanted, into the kernel; ``lab`` topologies in network namespaces
3      the doors: ``bgp`` to the peers, ``datastore`` to the intent, ``kernel`` to Linux, ``observe`` to the
       operator
2      ``router`` the single writer: events in, changes out (``deciding`` and ``advertise``, of one family each,
       are its parts); ``reconcile`` keeps an outside thing equal to
       what we want; ``convergence`` says when a start is over
1      ``rules`` the decisions, pure; ``rib`` Adj-RIB-In, Loc-RIB, Adj-RIB-Out
0      ``model`` the words: frozen values; ``config`` this node's YAML; ``yamlfile`` the strict loader
=====  ====================================================================================================

RFCs followed: 4271 (BGP-4), 4760 (multiprotocol), 6793 (four-octet AS), 4456 (route reflection), 2918 and 7313 (route
refresh), 4724 (graceful restart), 7911 (ADD-PATH), 8950 and 2545 (IPv6 next hops), 7606 (error handling of UPDATE),
8212 in spirit (nothing is exported that no rule lets out), 1997, 3765 and 8092 (communities), 8326 (graceful shutdown),
2385 (TCP MD5), 5082 (GTSM), 9003 (shutdown communication), 4486 (Cease subcodes).
"""

__version__ = "0.1.0"
