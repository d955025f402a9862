"""The two ways in which a run can fail because of what it was given."""

import errno


class DataError(Exception):
    """Something about an input is wrong; the message is one line: file, expected, found, what to do.

    Scripts end with exit code 1.
    """


class UsageError(Exception):
    """The flags make no sense together, or one is out of range. Scripts end with exit code 2."""


FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, a quota or a limit on a file's size
