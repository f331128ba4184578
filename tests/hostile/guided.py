"""Coverage-guided fuzzing by atheris (libFuzzer), for ``make fuzz``: each reader of ``inputs`` in a process of its own.

Usage: ``python -m tests.hostile.guided MINUTES [READER]``. It begins from the examples and from what is in ``corpus``.
An input that raises is written there, which ends the reader's run with an error: ``test_inputs`` reads all that is
there, always, so it is a test from then on.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
from pathlib import Path


def guide(name: str, seconds: int) -> None:
    """One reader, in this process; libFuzzer ends it."""
    import atheris

    with atheris.instrument_imports(include=["bgpd"]):
        from tests.hostile.inputs import CORPUS, READERS

    logging.disable(logging.CRITICAL)
    (CORPUS / name).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as found:
        for number, example in enumerate(READERS[name].examples):
            (Path(found) / str(number)).write_bytes(example)
        limits = [f"-max_total_time={seconds}", "-max_len=8192", "-timeout=10", "-rss_limit_mb=2048"]
        words = ["-verbosity=0", "-print_final_stats=1", f"-artifact_prefix={CORPUS / name}/"]
        atheris.Setup([sys.argv[0], *limits, *words, found, str(CORPUS / name)], READERS[name].read)
        atheris.Fuzz()


def main() -> int:
    """All readers in turn, or one."""
    minutes, names = float(sys.argv[1]), sys.argv[2:]
    if names:
        guide(names[0], round(minutes * 60))
    from tests.hostile.inputs import READERS

    command, share = [sys.executable, "-m", __spec__.name], str(minutes / len(READERS))
    failed = [name for name in READERS if subprocess.run([*command, share, name], check=False).returncode]
    print(f"failed: {', '.join(failed)}" if failed else "clean")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
