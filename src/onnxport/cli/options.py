"""The options and arguments of the commands: each is declared once, and means the same in every command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Models = Annotated[
    bool, typer.Option("--models", help="List the model types that were converted and compared with torch instead.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print no progress on stderr, only errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Also show what libraries print, and tracebacks.")]

ModelAndOutput = Annotated[
    list[str],
    typer.Argument(
        metavar="[MODEL] OUTPUT",
        help="The model: a folder, a .keras file, or a name on the Hugging Face Hub; leave it out with --model. And "
        "the output: a folder, or a path ending in .onnx for the graph alone.",
    ),
]
Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder that onnxport wrote.")]
FolderOrGraph = Annotated[
    Path, typer.Argument(metavar="FOLDER_OR_ONNX", help="A folder that onnxport wrote, or an .onnx file.")
]
Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT",
        help="A text, an image or WAV file, or an .npz file of arrays. `onnxport tasks` shows examples. A .txt or "
        ".jsonl file has one input a line, and so has stdin (-).",
    ),
]
TargetName = Annotated[
    str, typer.Argument(metavar="TARGET", help="genai (onnxruntime-genai), transformers.js or triton.")
]
TargetOutput = Annotated[
    Path | None,
    typer.Argument(metavar="OUTPUT", help="transformers.js, triton: the folder to write.", show_default=False),
]

Model = Annotated[str | None, typer.Option("--model", "-m", help="The model, instead of the first argument.")]
Task = Annotated[
    str | None,
    typer.Option(
        "--task", "--pipeline", "-t", help="The task, such as fill-mask; `onnxport tasks` lists them. Default: that of "
        "the checkpoint or folder.", show_default=False,
    ),
]  # fmt: skip
Tokenizer = Annotated[
    str | None,
    typer.Option("--tokenizer", help="A folder or name of the tokenizer, if it is not in the model's folder."),
]
Framework = Annotated[
    str | None,
    typer.Option(
        "--framework", metavar="pt|tf", help="PyTorch (pt) or TensorFlow (tf). Default: that of the checkpoint."
    ),
]
Opset = Annotated[
    int | None,
    typer.Option("--opset", help="ONNX opset. Default: the newest that ONNX Runtime runs at full speed."),
]
ExternalFormat = Annotated[
    bool,
    typer.Option(
        "--use-external-format", help="Store the weights in a file beside the graph. Always done beyond 2 GB."
    ),
]
ShardSize = Annotated[
    str | None,
    typer.Option(
        "--shard-size", metavar="SIZE", help="Split the weights beside the graph into files of this size, such as 2GB."
    ),
]
LinkWeights = Annotated[
    bool,
    typer.Option(
        "--link-weights",
        help="Hard-link weights that are stored as the graph needs them, instead of copying them. Do not change the "
        "checkpoint afterwards.",
    ),
]
MemoryLimit = Annotated[
    str | None,
    typer.Option(
        "--memory-limit", metavar="SIZE", help="Memory to use at most, such as 8GiB. Default: 80 % of what is free."
    ),
]
Quantize = Annotated[
    bool, typer.Option("--quantize", help="Also write an int8 graph, verified with a tolerance of its own.")
]
VerifyLevel = Annotated[
    str,
    typer.Option(
        "--verify",
        metavar="quick|standard|thorough",
        help="How much is compared with the source model. standard adds the ends of each axis and the thresholds that "
        "the model names, as far as they cost little; thorough all of them.",
    ),
]
RequireDynamic = Annotated[
    bool,
    typer.Option(
        "--require-dynamic",
        help="Stop if the export makes an axis static at which the source model runs with several sizes.",
    ),
]
Report = Annotated[
    Path | None,
    typer.Option("--report", metavar="FILE", help="Also write an HTML report, even if the outputs differ."),
]
Target = Annotated[
    str | None, typer.Option("--target", help="Also write the files of another run time: genai (onnxruntime-genai).")
]
Signature = Annotated[
    str | None, typer.Option("--signature", help="The signature of a SavedModel. Default: all of them.")
]
CheckLoading = Annotated[
    bool,
    typer.Option(
        "--check-loading",
        help="Has no effect: the graph is always loaded in ONNX Runtime. Accepted because transformers' "
        "convert_graph_to_onnx.py has it.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a folder that onnxport wrote.")]
AllowMismatch = Annotated[
    bool,
    typer.Option("--allow-mismatch", help="Write the folder even if the outputs differ. The exit code is still 1."),
]
AllowMissingWeights = Annotated[
    bool,
    typer.Option("--allow-missing-weights", help="Use random weights where the checkpoint has none."),
]
AllowUnusedWeights = Annotated[
    bool,
    typer.Option("--allow-unused-weights", help="Leave out weights of the checkpoint that the model does not use."),
]
AllowPickle = Annotated[
    bool,
    typer.Option("--allow-pickle", help="Read weights that are stored as pickle, which can run any code."),
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run the Python code that a checkpoint contains.")
]
Revision = Annotated[
    str | None, typer.Option("--revision", help="Branch, tag or commit of a model on the Hugging Face Hub.")
]
BaseModel = Annotated[
    str | None, typer.Option("--base-model", metavar="MODEL", help="The model that an adapter is for.")
]
StripPrefix = Annotated[
    str | None, typer.Option("--strip-prefix", metavar="PREFIX", help="Take names of weights without it (`module.`).")
]
Dequantize = Annotated[
    bool, typer.Option("--dequantize", help="Convert weights that the checkpoint stores quantized, as float32.")
]
KeptCheckpoint = Annotated[
    str | None,
    typer.Option(
        "--checkpoint", metavar="MODEL", help="Keep the integers of this quantized checkpoint; nothing is rounded."
    ),
]

Against = Annotated[
    str | None, typer.Option("--against", metavar="MODEL", help="The source model: run both again and compare.")
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict", help="Print a line for each finding of a consumer that trusts nothing; any finding is an error."
    ),
]
Component = Annotated[
    str, typer.Option("--component", "-c", help="Name of the graph in the folder, such as model_quantized.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A setting, such as max_new_tokens=20. May be repeated."),
]
Save = Annotated[
    Path | None,
    typer.Option(
        "--save",
        metavar="FOLDER",
        help="Write masks and depth maps as .png, and arrays as .npy, into this folder.",
        show_default=False,
    ),
]
Chat = Annotated[bool, typer.Option("--chat", help="Each input is a message of the user, or a JSON list of messages.")]

Processor = Annotated[
    str | None,
    typer.Option(
        "--for",
        metavar="cpu|cuda|webgpu|portable",
        help="Make candidates for a target, measure their loss, and their speed on this machine, and write the fastest "
        "within the budget. With cpu, a decoder is fused, and its cache is updated in place.",
    ),
]
CandidatePrecision = Annotated[
    str | None,
    typer.Option(
        "--precision",
        "-p",
        metavar="auto|fp32|fp16|int8|int8-weights|int4|...",
        help="Candidates: all that the target runs (auto), or one precision of `onnxport quantize`.",
    ),
]
MaxLoss = Annotated[
    str | None,
    typer.Option(
        "--max-loss",
        metavar="SHARE",
        help="The budget, such as 1%: labels or tokens that may change, or cosine similarity that embeddings may lose.",
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data", metavar="FILE", help="Texts to measure the loss on, one in each line. Default: 211 sentences."
    ),
]
Explain = Annotated[
    bool,
    typer.Option("--explain", help="Show all candidates with their size, time and loss, and what is fused and not."),
]
Sizes = Annotated[
    str | None,
    typer.Option(
        "--sizes",
        metavar="AXIS=N,...",
        help="Write a graph with static shapes, such as batch_size=1,sequence_length=128. A decoder then has a "
        "static cache.",
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        "--precision",
        "-p",
        help="int8 or uint8: weights, and activations at run time. int8-static: the same with calibrated scales, for "
        "encoders. int4 or int8-weights: weights only, in blocks of 32; bnb4: in blocks of 64, nf4. fp16: computation "
        "in float16. q4f16: int4 with computation in float16.",
    ),
]
Calibration = Annotated[
    str | None,
    typer.Option(
        "--calibration",
        metavar="minmax|percentile|entropy",
        help="With int8-static: how the range of an activation follows from its values. Default: minmax.",
    ),
]
CalibrationData = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="FILE",
        help="With int8-static: samples, a text in each line, or an .npz file with an array for each input. Default: "
        "211 sentences, and generated images and sounds.",
    ),
]
FloatActivations = Annotated[
    bool,
    typer.Option(
        "--float-activations",
        help="With int4 and int8-weights: keep activations in float32, which is more accurate and slower.",
    ),
]

Batches = Annotated[str, typer.Option("--batch", metavar="N,...", help="Rows of an input.")]
Lengths = Annotated[
    str | None,
    typer.Option(
        "--length",
        metavar="N,...",
        help="Tokens, samples, or pixels of a side. Default: usual ones that the graph takes.",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="Threads of one operator. Default: the processors that it may use."),
]
Provider = Annotated[
    str | None,
    typer.Option(
        "--provider", help="Where graphs run: CPU, CUDA, CoreML, DirectML, OpenVINO or WebGPU. Default: CPU.",
        show_default=False,
    ),
]  # fmt: skip
Seconds = Annotated[float, typer.Option("--seconds", min=0.01, help="Time for each graph at each size.")]
ChartFile = Annotated[Path | None, typer.Option("--chart", metavar="FILE.svg", help="Also draw the times.")]

Host = Annotated[
    str,
    typer.Option("--host", help="Address to listen on: 127.0.0.1 (this machine), 0.0.0.0 or :: (every network)."),
]
Port = Annotated[int, typer.Option("--port", help="Port to listen on.")]
ServeWorkers = Annotated[int, typer.Option("--workers", min=1, help="Processes that hold the model.")]
MaxBatch = Annotated[int, typer.Option("--max-batch", min=1, help="Most requests that run together.")]
BatchDelay = Annotated[
    float, typer.Option("--batch-delay", metavar="MS", min=0, help="How long a request waits for others, in ms.")
]
Queue = Annotated[
    int, typer.Option("--queue", min=1, help="Most requests that run or wait; more are answered with status 429.")
]
MaxBody = Annotated[str, typer.Option("--max-body", metavar="SIZE", help="Largest request, such as 16MiB.")]
RequestTimeout = Annotated[
    float, typer.Option("--timeout", metavar="SECONDS", min=0.01, help="Longest time of a request.")
]

Jobs = Annotated[
    str,
    typer.Argument(metavar="JOBS", help="A file of jobs (.yaml, .json, .jsonl, .csv), or a folder of checkpoints."),
]
BatchOutput = Annotated[
    str, typer.Argument(metavar="OUTPUT", help="A folder, or a URL that fsspec knows, such as s3://bucket/zoo.")
]
Engine = Annotated[str, typer.Option("--engine", metavar="local|ray", help="local: this machine. ray: a Ray cluster.")]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Jobs at once. Default: one for each processor, as memory allows."),
]
Timeout = Annotated[float | None, typer.Option("--timeout", metavar="SECONDS", min=0, help="Longest time of a job.")]
Attempts = Annotated[int, typer.Option("--attempts", min=1, help="How often a job is started that crashes.")]
RayAddress = Annotated[
    str | None,
    typer.Option("--address", help="The Ray cluster: auto, or ray://HOST:10001. Default: RAY_ADDRESS, or a new one."),
]
FailOn = Annotated[
    str,
    typer.Option(
        "--fail-on",
        metavar="any|mismatch|never",
        help="Which jobs make the exit code 1 (outputs differ) or 2 (failed).",
    ),
]

EnvironmentName = Annotated[str, typer.Argument(metavar="NAME", help="A name from `onnxport env list`.")]
Version = Annotated[bool, typer.Option("--version", help="Print the version.")]
