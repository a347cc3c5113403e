"""What libtiff says about damaged files: collected for the image, not printed on stderr.

libtiff prints a line for each damaged row, thousands for one file, and Pillow offers no way to turn
that off. Its own C interface does: a handler that is called in the thread that decodes, so that the
messages of concurrent decodings stay apart. To redirect the descriptor of stderr instead would
swallow what other threads print.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator
from pathlib import Path

import PIL
import PIL.Image  # loads libtiff

_BUFFER_BYTES = 200
_Handler = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)
_local = threading.local()


class Messages:
    """The first message, and how many there were."""

    def __init__(self) -> None:
        self.first = ""
        self.count = 0

    def __str__(self) -> str:
        return self.first if self.count < 2 else f"{self.first} and {self.count - 1} more"


@contextlib.contextmanager
def collected_messages() -> Iterator[Messages]:
    """Collect what libtiff says in this thread; elsewhere its messages are dropped."""
    messages = _local.messages = Messages()
    try:
        yield messages
    finally:
        _local.messages = None


def _collect(module: bytes | None, template: bytes | None, arguments: int | None) -> None:
    messages: Messages | None = getattr(_local, "messages", None)
    if messages is None:
        return
    messages.count += 1
    if messages.count == 1:
        buffer = ctypes.create_string_buffer(_BUFFER_BYTES)
        # The arguments are a va_list, which every supported system passes as a pointer.
        _C.vsnprintf(
            buffer, ctypes.c_size_t(len(buffer)), template or b"", ctypes.c_void_p(arguments)
        )
        text = buffer.value.decode(errors="replace").rstrip(".")
        messages.first = f"{module.decode(errors='replace')}: {text}" if module else text


def _loaded_library() -> ctypes.CDLL | None:
    """The libtiff that Pillow uses: in its wheel, or else of the system."""
    package = Path(PIL.__file__).parent
    bundled = [
        *package.parent.glob("pillow.libs/libtiff*"),
        *package.glob(".dylibs/libtiff*"),
    ]
    for name in [*map(str, bundled), "libtiff.so.6", "libtiff.so.5"]:
        with contextlib.suppress(OSError):
            return ctypes.CDLL(name)
    return None


_C = ctypes.CDLL(None)
# The library keeps the address only: the object must live as long as the process.
_handler = _Handler(_collect)


def _install() -> None:
    library = _loaded_library()
    for kind in ("Error", "Warning"):
        function = getattr(library, f"TIFFSet{kind}Handler", None)
        if function is not None:
            function.restype = ctypes.c_void_p
            function(_handler)


_install()
