"""The instruction under which each task of the mteb library is evaluated.

Where the evaluation of E2Rank's authors has another than mteb itself, theirs is taken: their numbers are what a user
compares with. Source: task_prompts.json and get_instruction in the code released with arXiv 2510.22733.
"""

from typing import Any

from e2rank_pyserini import catalog
from e2rank_pyserini.prompts import RETRIEVAL_TASK

RETRIEVAL = ("Retrieval", "Reranking", "InstructionRetrieval", "InstructionReranking")
_SIMILAR = "Retrieve semantically similar text"
_DUPLICATES = (
    "Given a question, retrieve detailed question descriptions from Stackexchange that are duplicates to the given "
    "question"
)
_KINDS = {  # whatever the task itself says
    "STS": _SIMILAR,
    "PairClassification": _SIMILAR,
    "BitextMining": "Retrieve parallel sentences",
}
_TASKS = {
    "ArXivHierarchicalClusteringP2P": "Identify the main and secondary category of Arxiv papers based on the titles "
    "and abstracts",
    "ArXivHierarchicalClusteringS2S": "Identify the main and secondary category of Arxiv papers based on the titles",
    "ClimateFEVERHardNegatives": "Given a claim about climate change, retrieve documents that support or refute the "
    "claim",
    "CQADupstackGamingRetrieval": _DUPLICATES,
    "CQADupstackRetrieval": _DUPLICATES,
    "CQADupstackUnixRetrieval": _DUPLICATES,
    "FEVERHardNegatives": "Given a claim, retrieve documents that support or refute the claim",
    "HotpotQAHardNegatives": "Given a multi-hop question, retrieve documents that can help answer the question",
    "SummEval": _SIMILAR,
}
_BOTH_SIDES = ("ArguAna", "CQADupstackGamingRetrieval", "CQADupstackUnixRetrieval")


def instruction(task_metadata: Any, subset: str) -> tuple[str, str]:
    """The instruction of a task and where it is from: our data set's, E2Rank's authors', the task's own, its kind's."""
    ours = catalog.dataset_of_mteb_task(task_metadata.name, subset)
    if ours is not None:
        return ours.retrieval_task, f"data set {ours.name}"
    theirs = _TASKS.get(task_metadata.name) or _KINDS.get(task_metadata.type)
    if theirs is not None:
        return theirs, "E2Rank's evaluation"
    own = task_metadata.prompt
    if isinstance(own, dict):
        own = own.get("query")
    if own:
        return own, "mteb's task"
    if task_metadata.type in RETRIEVAL:
        return RETRIEVAL_TASK, "the paper's default"
    from mteb.abstasks.abstask import get_abstask_prompt

    return get_abstask_prompt(task_metadata.name), "mteb's default for the kind of task"


def has_bare_documents(task_metadata: Any) -> bool:
    """False for the retrieval tasks whose documents go under the queries' instruction too."""
    return task_metadata.name not in _BOTH_SIDES
