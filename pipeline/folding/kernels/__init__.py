"""The arithmetic of the trunk's large parts, cache block by cache block, with gradients written out.

Each kernel is a ``torch.autograd.Function`` that keeps its input and one intermediate tensor for the backward pass and
computes the rest again, a few rows of the pair representation at a time; of a small one it keeps the rest too
(``common.Saved``). Blocks that fit a processor's cache are both the fastest and the leanest way: temporaries of the
size of the pair representation cost more in page faults and memory traffic than the arithmetic does.
"""
