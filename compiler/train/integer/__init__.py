"""A step of training in integers: the operations of stage `step`, and how those of stage `nn` become them.

Every module of this folder declares its own; importing the package imports them all.
"""

from isa.support.modules import import_modules

import_modules(__name__)
