"""The board and the rules in conf/, which scripts/monitoring.py makes: promtool checks them and tests each alert."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from boilerd.exporter.families import FAMILIES
from pages import DOCS, ROOT, blocks
from prometheus import promtool

#: How long a test of the rules goes on, in minutes of its own clock.
MINUTES = 20


def load_monitoring() -> ModuleType:
    spec = importlib.util.spec_from_file_location("monitoring", ROOT / "scripts" / "monitoring.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MONITORING = load_monitoring()


def case(series: dict[str, str], expr: str, expected: list[dict[str, Any]]) -> dict[str, Any]:
    """A test as promtool has it: what a query finds after some minutes of these series."""
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [{"expr": expr, "eval_time": f"{MINUTES}m", "exp_samples": expected}],
    }


def run_tests(directory: Path, *tests: dict[str, Any]) -> str:
    """What promtool finds wrong; empty: nothing."""
    suite = {"rule_files": [str(MONITORING.RULES)], "evaluation_interval": "1m", "tests": tests}
    (directory / "tests.yml").write_text(json.dumps(suite))
    done = promtool("test", "rules", "tests.yml", cwd=directory)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_the_rules_are_well_formed() -> None:
    done = promtool("check", "rules", str(MONITORING.RULES))

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(MONITORING.ALERTS) + len(MONITORING.RECORDS)} rules found" in done.stdout


def test_each_alert_fires_at_what_it_is_for(tmp_path: Path) -> None:
    tests = [
        case(
            MONITORING.HEALTHY | alert.fires,
            f'count by (alertname) (ALERTS{{alertstate="firing",alertname="{alert.name}"}})',
            [{"labels": f'{{alertname="{alert.name}"}}', "value": 1}],
        )
        for alert in MONITORING.ALERTS
    ]

    assert run_tests(tmp_path, *tests) == ""


def test_no_alert_fires_or_waits_at_a_healthy_daemon(tmp_path: Path) -> None:
    assert run_tests(tmp_path, case(MONITORING.HEALTHY, "ALERTS", [])) == ""


def test_the_rules_and_the_board_ask_for_metrics_that_there_are() -> None:
    known = {family.name for family in FAMILIES}
    text = MONITORING.BOARD.read_text() + MONITORING.RULES.read_text()

    named = set(re.findall(r"(?<!:)\b(boilerd_\w+)\b(?!:)", text))

    left = {re.sub(r"_(bucket|sum|count)$", "", name) for name in named - known} - known
    assert left == {"boilerd_attempts", "boilerd_failed_attempts"} & left


def test_the_board_has_ids_of_its_own_and_no_panel_over_another() -> None:
    board = json.loads(MONITORING.BOARD.read_text())
    panels = board["panels"]

    places = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]

    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len(set(places)) == len(places)
    assert max(x for x, _ in places) < 24


@pytest.mark.parametrize("block", [each for each in blocks(DOCS / "prometheus.md") if each.language == "yaml"], ids=str)
def test_prometheus_takes_what_the_page_shows(block: Any, tmp_path: Path) -> None:
    text = block.text.replace("/etc/prometheus", str(tmp_path))
    (tmp_path / "boilerd.token").write_text("0123456789abcdef")
    (tmp_path / "boilerd.rules.yml").write_text(MONITORING.RULES.read_text())
    (tmp_path / "prometheus.yml").write_text(text)

    done = promtool("check", "config", "prometheus.yml", cwd=tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr
