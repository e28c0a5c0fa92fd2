"""The optimizers of training, a file each: state, what the host computes, the formula.

Every module of this folder declares its own; importing the package imports them all.
"""

from isa.support.modules import import_modules

import_modules(__name__)
