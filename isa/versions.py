"""The versions of the contract between compiler and runtime."""

from typing import Final

ISA_VERSION: Final = "0.2"
CONTAINER_VERSION: Final = "0.5"
