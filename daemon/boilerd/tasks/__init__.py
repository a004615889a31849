"""The declarations of an application: task types, handlers, options, retry policies, periodic tasks.

Knows no Redis and no framework, only errors and units.
"""
