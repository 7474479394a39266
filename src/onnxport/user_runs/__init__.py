"""The folder as its user runs it: real inputs through pipelines, against the pipeline that was converted."""
