#!/bin/sh
# The command `slim`: Debian's Python with the package's own libraries, and nothing of the folder or
# the user that calls it.
PYTHONPATH=/usr/lib/slim:/usr/lib/slim/packages exec /usr/bin/python3 -BPs -m driver "$@"
