"""The X1 machine, declared once: instructions, arithmetic, targets, binary format, checker."""
