"""The weight map: where every parameter of a model comes from, and its bytes in blocks.

`lazy` records, while transformers loads a model, what is done to the checkpoint's tensors; nothing
is read. `stored` gives it the tensors of safetensors files; `blocks` replays a record piece by
piece; `placeholders` keeps weights out of a trace; `attach` puts them into the finished graph.
"""
