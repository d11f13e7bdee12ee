"""Measures the registry beside its peer, in one run on one machine.

Only ratios mean something: a number from another machine, another day or another
load generator says nothing. So every number of ours stands beside the peer's from
the same round, and beside the load generator's own ceiling.
"""
