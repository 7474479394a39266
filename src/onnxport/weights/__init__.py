"""Where each parameter of a model comes from, and its bytes in blocks.

`lazy` records what transformers does to the checkpoint's tensors while it loads a model, without reading them. `stored`
makes lazy tensors of weight files; `blocks` replays a record block by block; `placeholders` keeps weights out of a
trace; `attach` puts them into the exported graph.
"""
