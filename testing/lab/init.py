"""The first process of a lab's node: makes the node's private view of the machine, then only reaps.

Run by ``lab.Lab.up`` as a script (not imported, so that it starts fast and holds little), as root, through
``unshare --fork --pid --net --mount --uts --ipc``, so that it is process 1 of its own. When it ends, the kernel ends
every process of the node, and with them its interfaces, mounts and pods' namespaces.

The talk on stdin and stdout, a line each: it says its process id outside; hears the specification as JSON, once the
lab has that id on record (end of file instead: it ends, so no node is ever left that nobody knows); says ``ok`` or
what went wrong.

The view: ``/run`` and ``/var/lib/bgpd`` empty and private, ``/proc`` and ``/sys`` the node's own, the host name, the
sysctls, the binds. A bind's target that is not there is made in a private copy of its directory: a tmpfs over it whose
entries are links to the real ones, so the machine's file system is never written.
"""

import ctypes
import json
import os
import signal
import socket
import stat
import sys
from pathlib import Path

# <sys/mount.h>
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC = 1, 2, 4, 8, 32, 4096, 16384

PRIVATE = (Path("/run"), Path("/var/lib/bgpd"))
SHADOWS = Path("/run/.shadows")
"""Where the real directories behind private copies stay reachable."""

private_devices: set[int] = set()
"""The file systems made here: free to write."""


def mount(
    source: str, target: Path, kind: str | None = None, flags: int = 0, data: str | None = None
) -> None:
    """mount(2); ``OSError`` names the target."""
    libc = ctypes.CDLL(None, use_errno=True)
    texts = [os.fsencode(text) if text is not None else None for text in (source, target, kind, data)]
    if libc.mount(*texts[:3], ctypes.c_ulong(flags), texts[3]) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))


def mount_tmpfs(target: Path) -> None:
    """An empty private file system."""
    mount("tmpfs", target, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    private_devices.add(target.stat().st_dev)


def shadow(directory: Path) -> None:
    """Replaces a directory, in this node's sight, by a private one with links to all that is in the real one."""
    SHADOWS.mkdir(exist_ok=True)
    real = SHADOWS / str(len(list(SHADOWS.iterdir())))
    real.mkdir()
    mount(str(directory), real, flags=MS_BIND | MS_REC)
    mount_tmpfs(directory)
    for entry in real.iterdir():
        # A symbolic link keeps its text, which may be relative to where it lies.
        (directory / entry.name).symlink_to(os.readlink(entry) if entry.is_symlink() else entry)


def make_target(target: Path, directory: bool) -> None:
    """Makes what a mount goes over, where it is not there."""
    if target.exists():
        return
    parent = next(parent for parent in target.parents if parent.exists())
    if parent.stat().st_dev not in private_devices:
        shadow(parent)
    if directory:
        target.mkdir(parents=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()


def make_view(hostname: str, sysctls: dict[str, str], binds: list[tuple[str, str, bool]]) -> None:
    """The node's view of the machine; binds are (source, target, read only)."""
    # Sources are held open first: one may lie where a private directory is about to hide it.
    sources = [os.open(source, os.O_PATH | os.O_CLOEXEC) for source, _, _ in binds]
    for directory in PRIVATE:
        make_target(directory, directory=True)
        mount_tmpfs(directory)
    for (_, target, read_only), fd in zip(binds, sources, strict=True):
        make_target(Path(target), directory=stat.S_ISDIR(os.fstat(fd).st_mode))
        mount(f"/proc/self/fd/{fd}", Path(target), flags=MS_BIND | MS_REC)
        if read_only:
            mount("none", Path(target), flags=MS_REMOUNT | MS_BIND | MS_RDONLY)
        os.close(fd)
    mount("proc", Path("/proc"), "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("sysfs", Path("/sys"), "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    socket.sethostname(hostname)
    for key, value in sysctls.items():
        try:
            Path("/proc/sys", *key.split(".")).write_text(value)
        except OSError as error:
            raise OSError(error.errno, error.strerror, f"sysctl {key}: {value!r}") from None


def main() -> None:
    # /proc is still the machine's, so this link is our id outside.
    print(os.readlink("/proc/self"), flush=True)
    line = sys.stdin.readline()
    if not line:
        return
    specification = json.loads(line)
    try:
        make_view(specification["hostname"], specification["sysctls"], specification["binds"])
    except OSError as error:
        print(f"{error.filename}: {error.strerror}", flush=True)
        return
    print("ok", flush=True)
    with open(os.devnull, "r+b") as null:
        for fd in (0, 1, 2):
            os.dup2(null.fileno(), fd)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel then reaps for us, orphans too
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
