"""Redis as boilerd uses it: the only room that knows RQ's layout there.

Knows no process: its caller decides when to ask, and what to do in an outage.
"""
