"""Texts to learn a teacher's vectors from, as `e2rank train` reads them: a short one as query, two as documents.

    python texts.py COLLECTIONS WORDNET OUTPUT

COLLECTIONS holds the BEIR folders msmarco-v2-dl21-22, antique-train and scifact; trec-rag24 comes from its package,
without the passages of the topics that NIST judged. WORDNET is the directory of WordNet's data.noun and so on. Queries
are the training topics, sentences, runs of content words, as they are or made questions, and WordNet's words; documents
are the passages, what follows the first words of the longer ones, and shorter texts: sentences and glosses. Nothing is
labelled: the order of the documents means nothing.
"""

import random
import re
import sys
from hashlib import sha256
from pathlib import Path

from e2rank_pyserini import corpus as corpora
from e2rank_pyserini.datasets import dataset
from e2rank_pyserini.training.examples import Example, positions, write_examples
from e2rank_pyserini.trec import read_run

PARTS = ("noun", "verb", "adj", "adv")
FIRST = 45  # words of a passage that are read where it is cut; the rest is another text
FORMS = (
    "what is {}", "what are {}", "how does {} work", "how to {}", "how much {}", "why {}", "when was {}", "where is {}",
    "define {}", "{} definition", "{} meaning", "who is {}", "types of {}", "{} cost", "is {}", "causes of {}",
)  # fmt: skip
STOP = frozenset(
    "a about after all also an and any are as at be been but by can could did do does for from had has have he her "
    "his how i if in into is it its may more most my no not of on one only or other our out over she so some such than "
    "that the their them then there these they this those to up was we were what when which who will with would you "
    "your".split()
)


def main(collections: Path, wordnet: Path, output: Path) -> None:
    chance = random.Random(0)
    folders = {"msmarco-v2-dl21-22": "train-dl21", "antique-train": "train", "scifact": "train"}
    sets = [dataset(str(collections / name), split) for name, split in folders.items()] + [dataset("trec-rag24", "llm")]
    passages, topics = [], []
    for found in sets:
        hidden = judged_by_nist() if found.spec.name == "trec-rag24" else set()
        passages += [f"{d.title} {d.text}".strip() for d in corpora.documents(found.corpus()) if d.docid not in hidden]
        topics += [query for qid, query in found.topics().items() if sha256(qid.encode()).digest()[-1] >= 26]
    passages = [passage for passage in dict.fromkeys(passages) if passage]
    sentences = [sentence for passage in passages for sentence in split(passage)]
    words, glosses = entries(wordnet)
    many, half = len(passages), len(passages) // 2
    rests = [rest for passage in passages if len((rest := " ".join(passage.split()[FIRST:])).split()) > FIRST // 3]
    documents = passages + rests + some(sentences, many + half, chance) + some(glosses, many + half, chance)
    queries = [keywords(passage, chance) for passage in passages]
    queries += [chance.choice(FORMS).format(keywords(passage, chance)) for passage in passages]
    queries += some(sentences, half // 2, chance) + some(words, half, chance) + topics
    for texts in (documents, queries):
        chance.shuffle(texts)
    count = min(len(queries), len(documents) // 2)
    following = iter(documents)
    pairs = list(zip(following, following, strict=False))[:count]
    chance.shuffle(pairs)
    examples = [
        Example(query, pair, (0, 1), "texts", positions((0, 1)))
        for query, pair in zip(queries, pairs, strict=False)
        if query and pair[0] != pair[1]
    ]
    written = write_examples(output, examples)
    print(f"{written} examples of {many} passages: {len(documents)} texts, {len(queries)} queries")


def some(texts: list[str], count: int, chance: random.Random) -> list[str]:
    return chance.sample(texts, min(count, len(texts)))


def judged_by_nist() -> set[str]:
    runs = Path(str(dataset("trec-rag24", "test").folder)) / "runs"
    return {hit.docid for path in runs.glob("test.*.trec") for hits in read_run(path).values() for hit in hits}


def split(passage: str) -> list[str]:
    """Its sentences of 5 to 25 words."""
    return [found for found in re.split(r"(?<=[.!?])\s+", passage) if 5 <= len(found.split()) <= 25]


def keywords(passage: str, chance: random.Random) -> str:
    """Two to six content words that follow one another, in lower case."""
    content = [word for word in re.findall(r"[a-z0-9'-]+", passage.lower()) if word not in STOP]
    size = chance.randint(2, 6)
    start = chance.randrange(max(1, len(content) - size))
    return " ".join(content[start : start + size])


def entries(wordnet: Path) -> tuple[list[str], list[str]]:
    """WordNet's first words as queries, and each with its gloss as a text."""
    words, glosses = [], []
    for part in PARTS:
        for line in (wordnet / f"data.{part}").read_text(encoding="latin-1").splitlines():
            if not line.startswith("  "):
                data, gloss = line.split(" | ", 1)
                word = re.sub(r"\(\w+\)$", "", data.split()[4]).replace("_", " ")
                words.append(f"what is {word}" if len(words) % 4 == 0 else word)
                glosses.append(f"{word}: {gloss.strip()}")
    return words, glosses


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
