"""Is the listwise prompt worth its forward pass? DL19 and DL20, six first stages, against feedback that costs nothing.

    python benchmarks/feedback.py e2rank-minilm minilm --data DIR [--work DIR] [--weight W] [--stages bm25 …]

DIR is a BEIR folder with runs/{dl19,dl20}.STAGE.top100.trec (msmarco-dl-pool). Every run is made by the `e2rank`
command itself and stays in --work with its RUN.json, for `e2rank compare`, `report` and `rerun`. Printed, as Markdown:

1. nDCG@10 of the first stage's top 100, rescored by the model's query vector, by average and Rocchio feedback on the
   stored vectors of the first 3, by the listwise prompt, and by prompt + first stage (min-max, first stage weighs W).
   * differs from the query vector, + from Rocchio: paired t-test, p < 0.05 by Holm over the row's four comparisons.
2. nDCG@10 and R@100 when the *whole* pool is searched again by Rocchio or the prompt, against the model's dense search
   and the first stage; * there: differs from dense search (Holm over the row's two comparisons).
3. The prompt read otherwise (BM25 only): other windows, orders, an adaptive window, sliding windows, two and three
   passes; p is the paired t-test against the model's own window in the given order, uncorrected and by Holm over the
   year's rows.
"""

import argparse
from pathlib import Path

from e2rank_pyserini.catalog import model as model_record
from e2rank_pyserini.cli import main as e2rank
from e2rank_pyserini.comparison import Row, compare
from e2rank_pyserini.trec import read_qrels, read_run
from e2rank_pyserini.types import Qrels, Run

YEARS = ("dl19", "dl20")
STAGES = ("bm25", "bm25_rm3", "tasb", "ada2", "splade_pp", "repllama")
RELEVANCE = 2  # NIST's least relevant grade for the binary measures of the passage task
RULES = ("average", "rocchio", "prompt")
WINDOWS = (1, 2, 3, 5, 8, 12, 16, 20)
SIGNIFICANT = 0.05


def made(words: list[str], output: Path) -> Run:
    if e2rank([*words, "--output", str(output)]):
        raise SystemExit(f"failed: e2rank {' '.join(words)}")
    return read_run(output)


def compared(runs: dict[str, Run], qrels: Qrels, measure: str = "nDCG@10") -> dict[str, Row]:
    """name -> its row against the first of `runs`."""
    judged = [(name, {qid: hits for qid, hits in run.items() if qid in qrels}) for name, run in runs.items()]
    return {row.run: row for row in compare(judged, qrels, measure=measure, relevance=RELEVANCE)}


def cell(row: Row, marks: dict[str, Row]) -> str:
    """The mean in percent, with the mark of every baseline that it differs from."""
    found = "".join(mark for mark, against in marks.items() if against.holm < SIGNIFICANT)
    return f"{100 * row.mean:.2f}{found}"


def reranked(words: list[str], place: Path, weight: float) -> dict[str, Run]:
    prompt = ["--interpolate", f"prompt={1 - weight:g}", f"first={weight:g}"]
    runs = {"query": made(["rerank", *words, "--by", "query"], place / "query.trec")}
    runs |= {rule: made(["rerank", *words, "--by", rule], place / f"{rule}.trec") for rule in RULES}
    return runs | {"mixed": made(["rerank", *words, *prompt], place / "mixed.trec")}


def first_table(runs: dict[str, dict[str, Run]], first: dict[str, Run], qrels: Qrels, year: str) -> list[str]:
    lines = []
    for stage, found in runs.items():
        by_query = compared(found, qrels)
        by_rocchio = compared({"rocchio": found["rocchio"], **found}, qrels)
        cells = [cell(compared({"first": first[stage]}, qrels)["first"], {}), cell(by_query["query"], {})]
        cells += [cell(by_query[rule], {"*": by_query[rule]}) for rule in ("average", "rocchio")]
        cells += [cell(by_query[name], {"*": by_query[name], "+": by_rocchio[name]}) for name in ("prompt", "mixed")]
        lines.append(f"| {year} {stage} | {' | '.join(cells)} |")
    return lines


def second_table(
    runs: dict[str, dict[str, Run]], dense: Run, first: dict[str, Run], pool: Qrels, year: str
) -> list[str]:
    lines = []
    for stage, found in runs.items():
        cells = []
        for measure in ("nDCG@10", "R@100"):
            rows = compared({"dense": dense, **found}, pool, measure)
            cells += [cell(compared({"first": first[stage]}, pool, measure)["first"], {}), cell(rows["dense"], {})]
            cells += [cell(rows[rule], {"*": rows[rule]}) for rule in ("rocchio", "prompt")]
        lines.append(f"| {year} {stage} | {' | '.join(cells)} |")
    return lines


def variants(words: list[str], window: int, place: Path, qrels: Qrels, year: str) -> list[str]:
    """The prompt's settings one by one, each against the plain prompt, which is the first row."""
    options = {f"window {size}": ["--window", str(size)] for size in WINDOWS if size != window}
    options |= {"reversed": ["--order", "reverse"]}
    options |= {f"shuffled, seed {seed}": ["--order", "shuffle", "--seed", str(seed)] for seed in range(3)}
    options |= {f"adaptive {share}": ["--adaptive", str(share), "--window", "20"] for share in (0.9, 0.7, 0.5, 0.3)}
    options |= {f"sliding {window}, stride {window // 2}": ["--window", str(window), "--stride", str(window // 2)]}
    options |= {"two passes": ["--passes", "2"], "three passes": ["--passes", "3"]}
    plain = f"window {window}, as given"
    runs = {plain: made(["rerank", *words], place / "prompt.trec")}
    for name, more in options.items():
        file = name.replace(",", "").replace(" ", "-")
        runs[name] = made(["rerank", *words, *more], place / f"{file}.trec")
    rows = compared(runs, qrels)
    lines = [f"| {year} | {plain} | {cell(rows[plain], {})} | | |"]
    for name in options:
        row = rows[name]
        lines.append(f"| {year} | {name} | {cell(row, {})} | {row.p:.3f} | {row.holm:.3f} |")
    return lines


def measured(model: str, data: Path, work: Path, weight: float, stages: list[str]) -> None:
    index = work / f"pool.{Path(model).name}"
    if not index.exists() and e2rank(["index", "--dataset", str(data), "--encoder", model, "--output", str(index)]):
        raise SystemExit("the index could not be built")
    window = model_record(model).window
    over, whole, other = [], [], []
    for year in YEARS:
        common = ["--dataset", str(data), "--split", f"test-{year}", "--index", str(index), "--encoder", model]
        place = work / Path(model).name / year
        dense = made(["search", *common, "--hits", "100"], place / "dense.trec")
        first, again, wide = {}, {}, {}
        for stage in stages:
            path = data / "runs" / f"{year}.{stage}.top100.trec"
            words = [*common, "--run", str(path)]
            first[stage] = read_run(path)
            again[stage] = reranked(words, place / stage, weight)
            wide[stage] = {
                rule: made(["feedback", *words, "--by", rule, "--hits", "100"], place / stage / f"{rule}-whole.trec")
                for rule in ("rocchio", "prompt")
            }
        over += first_table(again, first, read_qrels(data / "qrels" / f"test-{year}.tsv"), year)
        if "bm25" in stages:
            words = [*common, "--run", str(data / "runs" / f"{year}.bm25.top100.trec")]
            judged = read_qrels(data / "qrels" / f"test-{year}.tsv")
            other += variants(words, window, place / "bm25", judged, year)
        whole += second_table(wide, dense, first, read_qrels(data / "qrels" / f"test-{year}-pool.tsv"), year)
    print(f"\n{model}, reranking, nDCG@10 (prompt + first: weight {weight:g} for the first stage)\n")
    print("| | first | query | average | Rocchio | prompt | prompt + first |\n|---|---|---|---|---|---|---|")
    print("\n".join(over))
    print(f"\n{model}, the whole pool searched again: nDCG@10, then R@100\n")
    print("| | first | dense | Rocchio | prompt | first | dense | Rocchio | prompt |")
    print("|---|---|---|---|---|---|---|---|---|")
    print("\n".join(whole))
    print(f"\n{model}, the prompt read otherwise, BM25's top 100, nDCG@10\n")
    print("| | | nDCG@10 | p | p Holm |\n|---|---|---|---|---|")
    print("\n".join(other), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoders", nargs="+", metavar="ENCODER")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("indexes/feedback"))
    parser.add_argument("--weight", type=float, default=0.2, help="of the first stage's score (default: 0.2)")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    arguments = parser.parse_args()
    for model in arguments.encoders:
        measured(model, arguments.data, arguments.work, arguments.weight, arguments.stages)


if __name__ == "__main__":
    main()
