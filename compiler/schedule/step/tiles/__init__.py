"""What makes the tiles of a step's operations: every module of this folder declares its own."""

from isa.support.modules import import_modules

import_modules(__name__)
