"""A Prometheus of the tests' own, and promtool; Debian's, which scripts/debian-packages takes out of its package."""

import json
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Self

from support import DEADLINE_S, wait_until

_UNPACKED = Path(__file__).parents[1] / "build" / "prometheus" / "usr" / "bin"


def find_program(name: str) -> str:
    """Where a program of Prometheus's is."""
    found = shutil.which(name) or shutil.which(name, path=str(_UNPACKED))
    assert found, f"{name} is missing: run scripts/debian-packages"
    return found


def promtool(*words: str, stdin: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run promtool to its end."""
    return subprocess.run(
        [find_program("promtool"), *words], input=stdin, cwd=cwd, capture_output=True, text=True,
        timeout=3 * DEADLINE_S, check=False,
    )  # fmt: skip


class Prometheus:
    """A server on a loopback port, with its data in a directory of its own; it scrapes once a second.

    Args:
        directory: Empty; becomes the server's.
        target: The address that it scrapes.
        rules: The file with its rules.
    """

    def __init__(self, directory: Path, target: str, rules: Path) -> None:
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "scrape_configs": [{"job_name": "boilerd", "static_configs": [{"targets": [target]}]}],
            "rule_files": [str(rules)],
        }
        (directory / "prometheus.yml").write_text(json.dumps(config))
        self._directory = directory
        self._url = ""
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        with (self._directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    find_program("prometheus"), "--config.file=prometheus.yml", "--storage.tsdb.path=data",
                    "--web.listen-address=127.0.0.1:0", "--log.format=json",
                ],
                cwd=self._directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self._url = f"http://{wait_until(self._address, 'Prometheus listens')}"
        wait_until(self._is_ready, "Prometheus is ready")
        return self

    def stop(self) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait(DEADLINE_S)
            self._process = None

    def query(self, expr: str) -> list[dict[str, Any]]:
        """What a query finds now."""
        found = self._get(f"/api/v1/query?{urllib.parse.urlencode({'query': expr})}")
        assert found["status"] == "success", found
        return list(found["data"]["result"])

    def target(self) -> dict[str, Any]:
        """What it says of the daemon that it scrapes."""
        (found,) = self._get("/api/v1/targets")["data"]["activeTargets"]
        return dict(found)

    def _get(self, path: str) -> dict[str, Any]:
        try:
            with urllib.request.urlopen(self._url + path, timeout=DEADLINE_S) as answer:
                return dict(json.load(answer))
        except urllib.error.HTTPError as error:
            return dict(json.load(error))

    def _address(self) -> str:
        """Where it listens: it chose the port, and says it in its log."""
        assert self._process is not None
        assert self._process.poll() is None, self._log()
        for line in self._log().splitlines():
            told = json.loads(line) if line.startswith("{") and line.endswith("}") else {}
            if str(told.get("msg", "")).lower() == "listening on":
                return str(told["address"])
        return ""

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._url}/-/ready", timeout=DEADLINE_S) as answer:
                return bool(answer.status == 200)
        except urllib.error.HTTPError:
            return False

    def _log(self) -> str:
        return (self._directory / "log").read_text(errors="replace")
