"""Keeps watchfiles from dashboards that are measured: uvicorn imports it where it is, and boilerd[web] has none."""

raise ImportError("watchfiles is kept from dashboards that are measured")
