"""The versions of the contract between compiler and runtime."""

from typing import Final

ISA_VERSION: Final = "0.1"
CONTAINER_VERSION: Final = "0.3"
