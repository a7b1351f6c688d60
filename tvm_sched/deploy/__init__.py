"""A compiled network as a file and as something to call: the artifact with its manifest, linking, bundles for boards.
`board/` is the C++ program that runs one without Python.

May import `planning` for what an artifact tells of its layers; nothing here compiles a network.
"""
