"""What is said of an operation beside its meaning: how it is imported, quantized and exported.

The rules themselves stand with the operations (`compiler/ops`); here is what they see, and where they are
kept.
"""
