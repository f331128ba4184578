"""The door to the peers: ``wire`` octets and messages; ``session`` the state machine of RFC 4271 §8 and ``connection``
one TCP connection of it, both sans-IO; ``runner``, ``transport`` and ``listeners`` their sockets; ``speaker`` all
sessions of the node; ``outbound`` Adj-RIB-Out to the wire; ``protection`` and ``admission`` who may connect, and
how."""
