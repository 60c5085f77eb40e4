"""What was encoded, and what of it was cut: the counts that commands print and RUN.json keeps."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass
class Tally:
    """What was encoded and what was cut, since the encoder was made."""

    documents: int = 0
    documents_truncated: int = 0
    documents_empty: int = 0
    queries: int = 0
    queries_truncated: int = 0
    prompts: int = 0
    prompts_query_truncated: int = 0
    prompt_documents: int = 0
    prompt_documents_truncated: int = 0
    tokens: int = 0

    def add(self, counts: Mapping[str, int]) -> None:
        """Count what another tally has counted."""
        for key, count in counts.items():
            setattr(self, key, getattr(self, key) + count)

    def since(self, earlier: "Tally") -> dict[str, int]:
        """The counts that have grown, by how much."""
        now, then = dataclasses.asdict(self), dataclasses.asdict(earlier)
        return {key: now[key] - then[key] for key in now if now[key] > then[key]}


def cut(counts: Mapping[str, int]) -> str:
    """What of these counts of a `Tally` was cut to its length, each text counted as often as it was encoded."""
    kinds = (
        ("documents_truncated", "documents", "documents"),
        ("queries_truncated", "queries", "queries"),
        ("prompt_documents_truncated", "prompt_documents", "documents in prompts"),
        ("prompts_query_truncated", "prompts", "queries in prompts"),
    )
    told = [f"{counts.get(some, 0)} of {counts[read]} {name}" for some, read, name in kinds if counts.get(read)]
    return f"{', '.join(told) or 'nothing read, nothing'} cut"
