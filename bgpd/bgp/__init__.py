"""The door to the peers, from the octets up:

- ``wire`` octets and messages; ``negotiation`` what two OPENs make;
- ``connection`` one TCP connection and ``session`` one peer, the state machine of RFC 4271 §8, both sans-IO;
  ``attempts`` when it is dialled, ``endings`` why it is ended;
- ``runner``, ``transport``, ``listeners`` and ``read_turns`` their sockets, and turns of the event loop;
- ``incoming``, ``admission`` and ``protection`` who may connect, and how;
- ``speaker`` all of it; ``sessions`` what may be asked and ordered of each; ``report`` how one is shown;
- ``outbound``, ``member`` and ``encoding`` Adj-RIB-Out to the wire;
- ``frozen``, ``thawed`` and ``handover`` sessions from one process to the next.
"""
