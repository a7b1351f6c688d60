"""The three products of a training step over uniform 1xN blocks: a convolution's output, the gradient of its input and
that of its kept weights, as functions of PyTorch's own layout (NCHW), lanes over pixels.

    Y[b, g*N + l, p]       = sum_{k, t} w[g*N + l, i(g, k), t] * X[b, c(g, k), p + t]
    dX[b, c(g, k), p + t] += sum_l      w[g*N + l, i(g, k), t] * dY[b, g*N + l, p]
    dW[g*N + l, i(g, k), t] = sum_{b, p} dY[b, g*N + l, p] * X[b, c(g, k), p + t]

`i(g, k)` is the k-th kept input of block row g, `c(g, k)` its channel in the whole input (another one in grouped
convolutions alone), t a tap of the kernel, by which a pixel's place is shifted. Indices, weights and the number of kept
blocks are arguments: one function serves every mask that keeps equally many blocks in each row. Threads share images.
`library` calls them, `workers` has them built by other processes, where `building` loads TVM's compiler.
May import targets, codegen and runtime; knows no PyTorch module.
"""
