"""The RIBs and their single writer: ``tables`` Adj-RIB-In, Loc-RIB, Adj-RIB-Out; ``family`` the decisions of one
address family; ``groups`` its update groups; ``stale`` how long routes of a peer that is away stay; ``router`` sessions
in, changes out; ``explain`` what the operator asks; ``remembered`` results that are kept. Pure: no clock, no event
loop, no log."""
