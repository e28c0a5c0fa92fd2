"""`python -m isa.manual docs/isa`: writes the pages of the manual into a folder."""

import sys

from isa.manual import main

raise SystemExit(main(sys.argv[1:]))
