"""The forward pass of BERT and its kin over texts laid end to end. In: tokens. Out: a vector of each token.

transformers pads texts to a rectangle, casts every weight at each call and, on a CPU, draws dropout one value at a time
on one thread. Here no layer but a CPU's attention sees padding, weights are cast once for each change of theirs, and a
CPU's dropout comes from bits drawn in bulk. It is the same function: tests hold its vectors and gradients to those of
transformers.
"""

from hybrid_ir.encoders.packed.forward import can_pack, token_vectors
from hybrid_ir.encoders.packed.linear import LayerWeights, weights_as_used

__all__ = ["LayerWeights", "can_pack", "token_vectors", "weights_as_used"]
