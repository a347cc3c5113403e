"""A PostgreSQL server on loopback, where its programs are installed."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from imgsim_assets_tests.support.ports import free_port

_NAME, _PASSWORD = "dagster", "pass/word: 1"


def _programs() -> Path | None:
    """The folder of initdb and postgres; Debian has them outside of the path."""
    for name in ("initdb", "postgres"):
        found = shutil.which(name)
        if found is not None:
            folder = Path(found).resolve().parent
            if (folder / "initdb").exists():
                return folder
    return max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)


@contextlib.contextmanager
def running() -> Iterator[Mapping[str, str]]:
    """Start a server with an empty database; yields the variables that deploy/dagster/ reads."""
    programs = _programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    # The server refuses to run as root.
    user = "postgres" if os.getuid() == 0 else None
    if user is not None and not any(entry.pw_name == user for entry in pwd.getpwall()):
        pytest.skip("PostgreSQL needs another user than root")
    with tempfile.TemporaryDirectory(prefix="imgsim-postgres-") as folder:
        if user is not None:
            shutil.chown(folder, user)
        password = Path(folder) / "password"
        password.write_text(_PASSWORD)
        password.chmod(0o644)
        data = f"{folder}/data"
        subprocess.run(
            [
                programs / "initdb",
                "-D",
                data,
                "-U",
                _NAME,
                f"--pwfile={password}",
                "-A",
                "scram-sha-256",
            ],
            user=user,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            check=True,
        )
        port = str(free_port())
        options = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": folder,
            "fsync": "off",
        }
        arguments = [part for item in options.items() for part in ("-c", "=".join(item))]
        with subprocess.Popen(
            [programs / "postgres", "-D", data, "-p", port, *arguments],
            user=user,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as server:
            try:
                _create_database(programs, port)
                yield {
                    "DAGSTER_POSTGRES_HOST": "127.0.0.1",
                    "DAGSTER_POSTGRES_PORT": port,
                    "DAGSTER_POSTGRES_DB": _NAME,
                    "DAGSTER_POSTGRES_USER": _NAME,
                    "DAGSTER_POSTGRES_PASSWORD": _PASSWORD,
                }
            finally:
                server.send_signal(signal.SIGINT)  # it does not wait for clients


def _create_database(programs: Path, port: str) -> None:
    deadline = time.monotonic() + 120
    while True:
        done = subprocess.run(
            [programs / "createdb", "-h", "127.0.0.1", "-p", port, "-U", _NAME, "-w", _NAME],
            env={**os.environ, "PGPASSWORD": _PASSWORD},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            return
        if time.monotonic() > deadline:
            raise AssertionError(done.stderr)
        time.sleep(0.2)
