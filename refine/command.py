"""How does a command end, whatever happens in it?"""

import os
import sys
from collections.abc import Callable


def ended(
    name: str,
    work: Callable[[], None],
    errors: tuple[type[Exception], ...],
    of_system: Callable[[OSError], str],
) -> int:
    """Does the ``work`` of the command ``name``; its exit code. One of ``errors`` is a line on
    stderr, an OSError the line that ``of_system`` makes of it."""
    try:
        work()
        sys.stdout.flush()
    except errors as error:
        problem = str(error)
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    except OSError as error:
        problem = of_system(error)
    else:
        return 0
    print(f"{name}: {problem}", file=sys.stderr)
    return 1
