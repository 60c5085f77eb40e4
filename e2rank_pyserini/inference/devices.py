"""Which device and which precision a model is loaded with."""

import torch

from e2rank_pyserini.choices import DTYPES
from e2rank_pyserini.types import E2RankError, first_line


def choose_device(wanted: str | torch.device | None) -> str:
    """`wanted`, or the GPU where there is one; refuses a device that is not there."""
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    name = str(wanted) if wanted else best
    try:
        torch.empty(0, device=name)
    except Exception as error:
        raise E2RankError(f"device {name!r}: not usable here: {first_line(error)}") from error
    if name.startswith("meta"):
        raise E2RankError("device 'meta': not usable here: it holds no numbers")
    return name


def choose_dtype(wanted: str | torch.dtype, device: str) -> torch.dtype:
    """`auto` is bfloat16 where the hardware computes in it (GPU, or a CPU with AVX512-BF16 or AMX), else float32."""
    name = str(wanted).removeprefix("torch.")
    if name not in DTYPES:
        raise E2RankError(f"dtype {name!r}: expected one of {', '.join(DTYPES)}")
    if name != "auto":
        named: torch.dtype = getattr(torch, name)
        return named
    if device.startswith("cuda"):
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device == "cpu":
        capabilities = torch.cpu.get_capabilities()
        native = bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
    else:
        native = False
    return torch.bfloat16 if native else torch.float32
