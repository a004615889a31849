"""Integrations that an application chooses: client middleware and middleware for OpenTelemetry and Sentry.

Each module needs the extra of its name. They use what every application can use, and know neither Redis nor the daemon.
"""
