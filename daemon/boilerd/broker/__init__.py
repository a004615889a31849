"""Redis as boilerd uses it: the only room that knows RQ's layout there.

Knows no process: whoever calls it decides when, and what to do in an outage.
"""
