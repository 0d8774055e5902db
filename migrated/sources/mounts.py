"""Which kind of file system a path lies on."""

import re

# What other machines, or programs below the mount, change there gives no events, and leases are not what they are
# on a local disk.
_SHARED = re.compile(r"nfs\d*|cifs|smb\d*|smbfs|9p|virtiofs|fuse\b.*|afs|ceph|glusterfs|lustre|ncpfs")


def is_shared(real_path: str) -> bool:
    """Whether others may change files there behind this kernel's back."""
    return _SHARED.fullmatch(file_system(real_path)) is not None


def file_system(path: str) -> str:
    """The type of the file system that a real path lies on, in the kernel's words; "" where it cannot be told."""
    try:
        with open("/proc/self/mountinfo", errors="surrogateescape") as file:
            mounts = file.read().splitlines()
    except OSError:
        return ""
    best, kind = "", ""
    for mount in mounts:
        fields, _, rest = mount.partition(" - ")
        # Blanks and the like are written as \040 (https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html).
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields.split(" ")[4])
        # Of two mounts on one point the later one is seen.
        if len(point) >= len(best) and (path + "/").startswith(point.rstrip("/") + "/"):
            best, kind = point, rest.split(" ")[0]
    return kind
