"""The decisions, as pure functions: no clock, no log, no I/O. Same input, same answer, whatever happened before."""
