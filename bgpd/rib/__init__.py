"""The RIBs and their single writer: ``tables`` Adj-RIB-In, Loc-RIB, Adj-RIB-Out; ``family`` the decisions of one
address family; ``groups`` its update groups; ``router`` sessions in, changes out. Pure: no clock, no event loop, no
log."""
