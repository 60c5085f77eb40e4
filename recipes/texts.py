"""Texts to learn a teacher's vectors from, as `e2rank train` reads them: a short one as query, two as documents.

    python texts.py COLLECTIONS WORDNET DICTD PYSERINI OUTPUT

COLLECTIONS holds the BEIR folders msmarco-v2-dl21-22, antique-train and scifact; trec-rag24 comes from its package,
without the passages of the topics that NIST judged. WORDNET is the directory of WordNet's data.noun and so on, DICTD
that of foldoc.index, gcide.index and their dictionaries, PYSERINI the wheel of an old Pyserini that carries topics.
Queries are those topics and the training topics, sentences, runs of content words, as they are or made questions, and
the dictionaries' words; documents are the passages, parts of them, sentences, glosses and entries. Nothing is labelled:
the order of the documents means nothing. Beside OUTPUT, OUTPUT.web.tsv holds those topics that MS MARCO's searchers
typed, for lists.
"""

import gzip
import io
import random
import re
import string
import sys
import zipfile
from hashlib import sha256
from pathlib import Path

from e2rank_pyserini import corpus as corpora
from e2rank_pyserini.datasets import dataset
from e2rank_pyserini.training.examples import Example, positions, write_examples
from e2rank_pyserini.trec import read_run

PARTS = ("noun", "verb", "adj", "adv")
DICTIONARIES = ("foldoc", "gcide")  # of computing; Webster's of 1913, with what was added since
DIGITS = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"  # of the numbers in dictd's index
PYSERINI = "695c7e3f28d1a5b8689bf2cbe8f9ffab63c28a179fe9f8ceeeaa8494100eb93f"  # 0.21.0, whose jar still has topics
JAR = "pyserini/resources/jars/anserini-0.21.0-fatjar.jar"
MARCO = ("msmarco-passage.dev-subset", "msmarco-doc.dev", "msmarco-v2-doc.dev", "msmarco-v2-doc.dev2")
MARCO += ("msmarco-v2-passage.dev", "msmarco-v2-passage.dev2")
OTHERS = ("mq.1-10000", "mq.10001-20000", "mq.20001-60000", "terabyte05.efficiency", "dpr.nq.dev", "dpr.trivia.dev")
HELD = ("dl19-passage", "dl20")  # report only: what equals one of these is not read
FIRST = 90  # words of a passage that are read where it is cut; the rest is another text
SHORT, LONG = 8, 60  # words of a part of a passage
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


def main(collections: Path, wordnet: Path, dictd: Path, pyserini: Path, output: Path) -> None:
    chance = random.Random(0)
    asked, searched = typed(pyserini)
    folders = {"msmarco-v2-dl21-22": "train-dl21", "antique-train": "train", "scifact": "train"}
    sets = [dataset(str(collections / name), split) for name, split in folders.items()] + [dataset("trec-rag24", "llm")]
    passages, topics = [], []
    for found in sets:
        hidden = judged_by_nist() if found.spec.name == "trec-rag24" else set()
        passages += [f"{d.title} {d.text}".strip() for d in corpora.documents(found.corpus()) if d.docid not in hidden]
        topics += [query for qid, query in found.topics().items() if sha256(qid.encode()).digest()[-1] >= 26]
    passages = [passage for passage in dict.fromkeys(passages) if passage]
    many, half = len(passages), len(passages) // 2
    sentences = [sentence for passage in passages for sentence in split(passage)]
    words, glosses = senses(wordnet)
    for name in DICTIONARIES:
        more, texts = entries(dictd, name)
        words += some(more, many, chance)
        glosses += some(texts, many, chance)
    rests = [rest for passage in passages if len((rest := " ".join(passage.split()[FIRST:])).split()) > FIRST // 3]
    parts = [part(passage, chance) for passage in passages for _ in range(6)]
    documents = passages + rests + parts + some(sentences, 2 * many, chance) + some(glosses, 4 * many, chance)
    queries = asked + searched + topics + [keywords(passage, chance) for passage in passages]
    queries += [chance.choice(FORMS).format(keywords(passage, chance)) for passage in some(passages, half, chance)]
    queries += some(sentences, half // 2, chance) + some(words, many, chance)
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
    rows = "".join(f"w{number}\t{query}\n" for number, query in enumerate(asked))
    output.with_name(output.name + ".web.tsv").write_text(rows, encoding="utf-8")  # first: data.sh looks for the other
    written = write_examples(output, examples)
    print(f"{written} examples of {many} passages: {len(documents)} texts, {len(queries)} queries")


def some(texts: list[str], count: int, chance: random.Random) -> list[str]:
    return chance.sample(texts, min(count, len(texts)))


def typed(wheel: Path) -> tuple[list[str], list[str]]:
    """What people typed: MS MARCO's topics, and those of other collections, each text once."""
    if sha256(wheel.read_bytes()).hexdigest() != PYSERINI:
        sys.exit(f"{wheel}: not the wheel of SHA-256 {PYSERINI}")
    with zipfile.ZipFile(wheel) as outer, zipfile.ZipFile(io.BytesIO(outer.read(JAR))) as jar:

        def read(name: str) -> list[str]:
            lines = jar.read(f"topics-and-qrels/topics.{name}.txt").decode(errors="ignore").splitlines()
            return [query(line, name) for line in lines]  # of 140,000 a few hold bytes that are no UTF-8

        seen = {text for name in HELD for text in read(name)} | {""}
        found = []
        for names in (MARCO, OTHERS):
            texts = dict.fromkeys(text for name in names for text in read(name))
            found.append([text for text in texts if text not in seen])
            seen.update(texts)
    return found[0], found[1]


def query(line: str, name: str) -> str:
    """The query of a line of topics: `qid<TAB>query`, `qid:query`, `qid:priority:query` or `query<TAB>answers`."""
    if name.startswith("dpr."):
        found = line.split("\t")[0]
    elif "\t" in line:
        found = line.split("\t")[1]
    else:
        found = line.split(":")[-1]
    return " ".join(found.replace('"', " ").split())


def part(passage: str, chance: random.Random) -> str:
    """Some of its words that follow one another."""
    words = passage.split()
    size = chance.randint(SHORT, LONG)
    start = chance.randrange(max(1, len(words) - size))
    return " ".join(words[start : start + size])


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


def senses(wordnet: Path) -> tuple[list[str], list[str]]:
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


def entries(dictd: Path, name: str) -> tuple[list[str], list[str]]:
    """The words of one of dictd's dictionaries as queries, and its entries as texts, cut as passages are.

    A line of the index is a word and where its entry lies: byte and length, as numbers to the base 64.
    """
    whole = gzip.decompress((dictd / f"{name}.dict.dz").read_bytes())
    words, texts, seen = [], [], set()
    for line in (dictd / f"{name}.index").read_text(encoding="utf-8").splitlines():
        word, start, size = line.split("\t")[:3]
        if start in seen or word.startswith("00"):  # another word of the same entry; what the dictionary says of itself
            continue
        seen.add(start)
        entry = whole[number(start) : number(start) + number(size)].decode(errors="ignore")
        text = " ".join(re.sub(r"\[1913 Webster\]|[{}\\]", "", entry).split()[:FIRST])
        if len(text.split()) >= SHORT and len(word) > 2:
            words.append(f"what is {word}" if len(words) % 4 == 0 else word)
            texts.append(text)
    return words, texts


def number(digits: str) -> int:
    found = 0
    for digit in digits:
        found = 64 * found + DIGITS.index(digit)
    return found


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
