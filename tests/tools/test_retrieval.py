"""BM25 search as a tool."""

import math

import pytest

from grpo_agents.tools import run_calls, search_tool

RIVERS = ["The Rhine flows to the sea.", "The Danube flows east, far east.", "A lake lies still.", "Sea and lake."]


def ask(made, query):
    call = {"id": "0", "type": "function", "function": {"name": made.alias, "arguments": {"query": query}}}
    messages, runs = run_calls({made.alias: made}, [call])
    return messages[0]["content"], runs[0]


def bm25(texts, query, k=1.5, b=0.75):
    """The formula, with the idf of Lucene."""
    split = [[word.strip(".,").lower() for word in text.split()] for text in texts]
    mean = sum(map(len, split)) / len(split)
    scores = []
    for words in split:
        score = 0.0
        for term in query.split():
            holding = sum(term in other for other in split)
            idf = math.log(1 + (len(split) - holding + 0.5) / (holding + 0.5))
            count = words.count(term)
            score += idf * count / (count + k * (1 - b + b * len(words) / mean))
        scores.append(score)
    return scores


@pytest.mark.parametrize("query", ["east", "sea", "lake", "the sea", "flows east"])
def test_the_order_is_that_of_the_formula(query):
    scores = bm25(RIVERS, query)
    order = [at for at in sorted(range(4), key=lambda at: (-round(scores[at], 6), at)) if scores[at] > 0]
    found, _ = ask(search_tool(RIVERS, passages=4), query)
    assert found == "\n\n".join(f"[{at}] {RIVERS[at]}" for at in order)


def test_case_and_unknown_words_do_not_matter_and_nothing_is_said_to_be_found():
    made = search_tool({"a": "One 7 two", "b": "three"}, passages=1, price=0.25, latency=1.5)
    content, run = ask(made, "ONE zebra")
    assert (content, run.dollars, run.latency) == ("[a] One 7 two", 0.25, 1.5)
    assert ask(made, "7")[0] == "[a] One 7 two"
    for query in ("zebra", "", "?!"):
        assert ask(made, query)[0] == "Nothing was found."


def test_a_folder_is_read_by_passages(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "rivers.md").write_text("# Rivers\n\nThe Rhine.\n \nThe Danube is long.\n")
    (tmp_path / "lakes.txt").write_text("Lake Ä is deep.")
    (tmp_path / ".hidden").write_bytes(b"\xff")
    made = search_tool(tmp_path, characters=10)
    assert ask(made, "danube")[0] == "[notes/rivers.md#3] The Danube …"
    assert ask(made, "ä")[0] == "[lakes.txt] Lake Ä is …"


def test_equal_passages_come_in_their_order():
    made = search_tool(["same words"] * 9, passages=4)
    assert [line[:3] for line in ask(made, "words")[0].split("\n\n")] == ["[0]", "[1]", "[2]", "[3]"]


def test_a_broken_corpus_is_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere to search in"):
        search_tool(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="has no texts"):
        search_tool(tmp_path)
    with pytest.raises(ValueError, match="has no texts"):
        search_tool([])
    (tmp_path / "good.txt").write_text("words")
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\xff")
    with pytest.raises(ValueError, match=r"without a word of text \(in UTF-8\): empty\.txt, picture\.png\."):
        search_tool(tmp_path)
    with pytest.raises(ValueError, match=r"a corpus to search in: .*: 1\."):
        search_tool(["words", "…"])
