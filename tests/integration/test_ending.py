"""The end when something is in its way: a disk that hangs, a parent that is gone."""

import http.client
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.parts.processes import inherited, stop, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

# Stands for a disk that hangs from some moment on: who syncs waits for ever. Spawned workers read
# this, too.
HANGING = """\
import os
import sys
import threading


def hangs_from_some_moment_on(sync):
    def call(descriptor):
        if os.path.exists(os.environ["HANG"]):
            threading.Event().wait()
        return sync(descriptor)

    return call


os.fsync = hangs_from_some_moment_on(os.fsync)
os.fdatasync = hangs_from_some_moment_on(os.fdatasync)

if __name__ == "__main__":
    from alauda_registry.server.cli import main

    sys.exit(main())
"""

ORPHANED = """\
import multiprocessing
import socket
import sys

from alauda_registry.server.configuration.settings import Settings
from alauda_registry.server.workers.supervisor import run_worker

if __name__ == "__main__":
    settings = Settings.model_validate({"storage": {"filesystem": {"rootdirectory": sys.argv[1]}}})
    ours, theirs = multiprocessing.Pipe()
    ours.close()
    with socket.create_server(("127.0.0.1", 0)) as sock:
        run_worker(settings, 0, sock, theirs, multiprocessing.RawArray("i", 1))
"""


def run(
    script: Path, log: Path, *arguments: str | Path, **variables: str
) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, script, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=inherited(PYTHONPATH=os.pathsep.join(sys.path), **variables),
            start_new_session=True,
        )


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_disk_that_hangs_does_not_keep_a_process_that_was_told_to_stop(
    tmp_path: Path, workers: str
) -> None:
    script, log, hang = tmp_path / "hanging.py", tmp_path / "log", tmp_path / "hang"
    script.write_text(HANGING)
    process = run(
        script,
        log,
        *("serve", "--root", tmp_path / "root", "--listen", "127.0.0.1:0", "--workers", workers),
        HANG=str(hang),
        REGISTRY_HTTP_DRAINTIMEOUT="1s",
    )
    try:
        pattern = re.compile(r"serving http://127\.0\.0\.1:(\d+) from")
        wait_until(lambda: bool(pattern.search(log.read_text())), "the server")
        found = pattern.search(log.read_text())
        assert found
        connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=30)
        connection.request("POST", "/v2/a/blobs/uploads/")
        connection.getresponse().read()
        connection.sock.settimeout(2)
        hang.touch()
        connection.request("PUT", "/v2/a/manifests/b", body=b'{"schemaVersion":2,"manifests":[]}')
        with pytest.raises(TimeoutError):
            connection.getresponse()
        connection.close()

        began = time.monotonic()
        process.terminate()

        code = process.wait(30)
    finally:
        stop(process)
    assert time.monotonic() - began > 1
    assert code == 1 or workers == "2"
    assert re.search("ending by force|does not stop; killing it", log.read_text())


def test_a_worker_whose_parent_is_gone_before_it_has_begun_ends_in_order(tmp_path: Path) -> None:
    script, log = tmp_path / "orphaned.py", tmp_path / "log"
    script.write_text(ORPHANED)

    process = run(script, log, tmp_path / "root")

    assert process.wait(30) == 0
    assert "the parent process is gone" in log.read_text()
    assert "Traceback" not in log.read_text()
