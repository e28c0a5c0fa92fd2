"""What makes the tiles of every operation: every module of this folder declares its own."""

from compiler.schedule.builder import planner_of
from isa.support.modules import import_modules

__all__ = ["planner_of"]

import_modules("compiler.schedule.tiles")
