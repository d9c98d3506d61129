"""Print the precision that `auto` is not on this machine: all tests ran with the one that it is."""

from hybrid_ir.encoders.embedding import resolve_precision

print("fp32" if resolve_precision("auto", "cpu") == "bf16" else "bf16")
