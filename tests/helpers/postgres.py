"""A PostgreSQL server of the tests' own, for what SQLite does not show: machines that share it."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from contextlib import contextmanager
from pathlib import Path

import pytest

WHERE = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


class Server:
    """A server that can be stopped and started again."""

    def __init__(self, programs, folder, user):
        self.programs, self.folder, self.user = programs, folder, user
        with socket.socket() as free:
            free.bind(("localhost", 0))
            self.port = free.getsockname()[1]
        self.run("initdb", "-D", folder / "data", "-U", "tests", "-A", "trust", "--no-sync")
        self.process = None

    def run(self, program, *arguments, call=subprocess.check_output):
        return call(
            [self.programs / program, *arguments],
            user=self.user,
            cwd=self.folder,
            stderr=subprocess.DEVNULL,
            env={"LC_ALL": "C", "PATH": os.environ["PATH"]},
        )

    def start(self):
        options = ("-D", self.folder / "data", "-p", str(self.port), "-k", self.folder, "-F")
        self.process = self.run(
            "postgres", *options, "-c", "listen_addresses=localhost", call=subprocess.Popen
        )
        deadline = time.monotonic() + 60
        while not self.answers():
            assert self.process.poll() is None, "the server has ended"
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.1)

    def answers(self):
        import psycopg

        try:
            psycopg.connect(self.address("postgres")).close()
            return True
        except psycopg.OperationalError:
            return False

    def stop(self):
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait()

    def address(self, database):
        return f"postgresql://tests@localhost:{self.port}/{database}"

    def database(self):
        """URL of a new database, as Optuna takes it."""
        import psycopg

        name = f"d{uuid.uuid4().hex}"
        with psycopg.connect(self.address("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.address(name).replace("postgresql:", "postgresql+psycopg:")


@contextmanager
def serving():
    """Start a server in a folder of its own; the test is skipped where there is none to start."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    result = shutil.which("initdb")
    programs = Path(result).parent if result else next(iter(WHERE), None)
    if programs is None or not (programs / "initdb").exists():
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    user = None
    if os.geteuid() == 0:
        # The server refuses to be root's.
        try:
            user = pwd.getpwnam("postgres").pw_uid
        except KeyError:
            pytest.skip("there is no user postgres, and a server must not be root's")
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        os.chown(folder, user if user is not None else os.geteuid(), -1)
        server = Server(programs, folder, user)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)
