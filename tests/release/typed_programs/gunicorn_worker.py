"""A worker class of a program's own, for gunicorn: ``gunicorn -k gunicorn_worker.CountingWorker``."""

from __future__ import annotations

from typing import Any

from fastwsgi.gunicorn import Worker


class CountingWorker(Worker):
    beats = 0

    def notify(self) -> None:
        self.beats += 1
        super().notify()

    def handle_usr1(self, sig: int, frame: Any) -> None:
        super().handle_usr1(sig, frame)
