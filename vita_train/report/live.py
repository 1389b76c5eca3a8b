"""The report of a run that goes on: written anew while a stage trains."""

from __future__ import annotations

import threading
import time

from vita_train.console import say
from vita_train.report.render import REPORT_KEY, build_report
from vita_train.runs.run import Run
from vita_train.storage.factory import open_store

#: Seconds between two pages; one takes a second or two of a processor.
_EVERY = 60.0


class LivePage:
    """Writes a run's page into its store in a thread, at most one a minute.

    Nothing that goes wrong with it is worth a training: it is told in a line of the log.

    Args:
        run: which.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._thread: threading.Thread | None = None
        self._written = -_EVERY

    def __call__(self, *, last: bool = False) -> None:
        """Write the page in the background unless that was done just now.

        Args:
            last: the stage has come to its end: write it in any case, and wait for it.
        """
        if self._thread is not None and (last or not self._thread.is_alive()):
            self._thread.join()
            self._thread = None
        if self._thread is None and (last or time.monotonic() - self._written >= _EVERY):
            self._written = time.monotonic()
            # Not a daemon: a page that has been begun is finished before the process ends.
            self._thread = threading.Thread(target=self._write, name="report")
            self._thread.start()
            if last:
                self._thread.join()

    def _write(self) -> None:
        try:
            run, store = self._run, self._run.own_store()
            # The prepared corpus lies on this machine alone.
            stores = (store,) if run.is_local else (store, open_store(str(run.dir)))
            store.write(REPORT_KEY, build_report(*stores).encode())
        except Exception as error:
            say(f"the report could not be refreshed: {error}")
