"""Processes that do nothing but have a name: calicoctl only looks at ``bird.ctl`` while a process is called ``bird``.

Each is ``cat`` under another name, reading from a pipe whose other end nobody but this process has: when the daemon
ends, in whatever way, the kernel closes that end and they end too. ``daemon`` runs it where the configuration wants it.
"""

from __future__ import annotations

import asyncio
import logging
import shutil

from bgpd.events import event

NAMES = ("bird", "bird6")
AGAIN_SECONDS = 10.0
"""Seconds before one that ended is started again."""

log = logging.getLogger(__name__)


async def run(names: tuple[str, ...] = NAMES) -> None:
    """Keeps one process of each name until it is cancelled."""
    async with asyncio.TaskGroup() as group:
        for name in names:
            group.create_task(_keep(name), name=f"process-{name}")


async def _keep(name: str) -> None:
    while True:
        try:
            program = shutil.which("cat")
            if program is None:
                raise FileNotFoundError(2, "there is no program cat")
            process = await asyncio.create_subprocess_exec(
                name,
                executable=program,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
        except OSError as error:
            event(log, "process_name_not_there", logging.WARNING, name=name, cause=error.strerror)
        else:
            try:
                await process.wait()
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
            event(log, "process_name_ended", logging.WARNING, name=name, code=process.returncode)
        await asyncio.sleep(AGAIN_SECONDS)
