"""Published numbers: loaded strictly, and written down without a slip."""

from pathlib import Path
from statistics import mean

import pytest
import yaml

from e2rank_pyserini.table.published import AVERAGE, BEIR, beside, has_numbers, read_published
from e2rank_pyserini.types import E2RankError

FILE = Path(__file__).resolve().parents[1] / "e2rank_pyserini" / "table" / "published.yaml"
METHOD = Path(__file__).resolve().parents[2] / "shared" / "METHOD.md"
ROWS = {row.name: row for row in read_published(FILE)}


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if AVERAGE in row.ndcg])
def test_the_printed_average_is_that_of_the_printed_numbers(name: str):
    """A digit mistyped anywhere moves the mean of its row by more than rounding does."""
    values = ROWS[name].ndcg
    assert mean(values[one] for one in BEIR) == pytest.approx(values[AVERAGE], abs=0.0051)


def test_the_method_page_says_the_same():
    if not METHOD.is_file():
        pytest.skip("METHOD.md (../shared) is not here")
    section = METHOD.read_text().split("## 3.")[1].split("## 4.")[0]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if "|" in line]
    assert len(table) == 7
    for system, *cells in table[2:]:
        [row] = [row for row in ROWS.values() if row.system == system and row.first_stage == "bm25"]
        assert [row.ndcg[one] for one in ("dl19", "dl20", *BEIR, AVERAGE)] == [float(cell) for cell in cells]
    before, after = ROWS["e2rank-0.6b-retrieval"].ndcg, ROWS["e2rank-0.6b-end-to-end"].ndcg
    told = [f"{name} {before[key]:.2f} → {after[key]:.2f}" for name, key in (("BEIR-8", AVERAGE), ("DL20", "dl20"))]
    for one in [*told, f"Covid {before['trec-covid']:.2f} → {after['trec-covid']:.2f}", "is 32.18"]:
        assert one in section


def test_a_model_gets_its_own_columns_and_another_the_references():
    assert {key: row.system for key, row in beside("e2rank-4b", "bm25").items()} == {
        "first": "BM25",
        "prompt": "E2Rank-4B",
        "peer": "RankQwen3-4B",
    }
    assert {key: row.system for key, row in beside("minilm", "dense").items()} == {
        "first": "E2Rank-0.6B retrieval",
        "prompt": "E2Rank-0.6B",
    }
    assert beside("e2rank-0.6b", "tasb") == {}
    assert has_numbers("e2rank-8b")
    assert not has_numbers("e2rank-minilm")


def test_no_two_records_claim_one_column():
    claims = [(row.first_stage, row.column, row.model) for row in ROWS.values()]
    assert len(set(claims)) == len(claims)


SOUND = {"system": "X", "source": "Y", "column": "first", "first_stage": "bm25", "ndcg": {"dl19": 50}}
BAD = {
    "unknown-key": ({"sytem": "X"}, r"published.yaml: x: unknown key 'sytem'; did you mean system"),
    "unknown-set": ({"ndcg": {"scifct": 1.0}}, "unknown data set 'scifct'; did you mean scifact"),
    "unknown-set-in-notes": ({"notes": {"beir8": "n"}}, "unknown data set 'beir8'; did you mean beir-8"),
    "a-word-for-a-number": ({"ndcg": {"dl19": "high"}}, "ndcg: dl19: expected float, got 'high'"),
    "unknown-column": ({"column": "prmpt"}, "column: expected one of first, prompt, peer, got 'prmpt'"),
    "unknown-model": ({"model": "e2rank"}, "model: expected one of e2rank-0.6b"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_known_is_refused(tmp_path: Path, name: str):
    change, message = BAD[name]
    path = tmp_path / "published.yaml"
    path.write_text(yaml.safe_dump({"x": SOUND}))
    assert read_published(path)[0].ndcg == {"dl19": 50.0}
    path.write_text(yaml.safe_dump({"x": {**SOUND, **change}}))
    with pytest.raises(E2RankError, match=message):
        read_published(path)


@pytest.mark.parametrize(("content", "message"), [("x: 3", "x: expected a mapping"), ("x: {system: X}", "'source'")])
def test_half_a_record_is_refused(tmp_path: Path, content: str, message: str):
    (tmp_path / "published.yaml").write_text(content)
    with pytest.raises(E2RankError, match=message):
        read_published(tmp_path / "published.yaml")
