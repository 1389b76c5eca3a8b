"""Large collections of instructions: Cambrian, Idefics2's (the Cauldron) and LLaVA-OneVision's."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from vita_train.data.adapters.base import Rejected
from vita_train.data.crawl.rows import list_files
from vita_train.data.formats.questions import image_bytes, paired
from vita_train.data.formats.rewrite import Made, Row, conversation, rows_of, text_of

_CAMBRIAN_1375K = {
    *("lvis_instruct4v_220k.json", "sketchyvqa_8k.json", "oodvqa_8k.json", "idk_11k.json"),
    *("q-instruct_200k.json", "qalign_200k.json", "arxivqa_100k.json", "screenqa_79k.json"),
    *("scienceqa_12k.json", "alfworldgpt_45k.json", "filtered_data_engine_161k.json"),
    *("lnqa_302k.json", "pathvqa_32k.json"),
}
_CAMBRIAN_DOC_1275K = {"random_3rd_dvqa_2325k.json", "synthdog_500k_modified.json"}
#: Subsets that VILA leaves out.
_NOT_IDEFICS2 = ("websight", "datikz")
_NOT_ONEVISION = ("ureader_kg", "ureader_qa")


def cambrian(rows: Iterable[Row], sources: Collection[str] = ()) -> Iterator[Made]:
    """Yield each row of some sources, all where none is named, unless a turn has several images."""
    for where, row in rows:
        turns = row.get("conversations")
        if sources and row.get("source") not in sources:
            yield Rejected(where, "another source")
        elif not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
            yield Rejected(where, "no conversation")
        elif any(str(turn.get("value")).count("<image>") > 1 for turn in turns):
            yield Rejected(where, "several images in a turn")
        else:
            made = {"id": str(row.get("id", where)), "conversations": turns}
            image = row.get("image")
            yield {**made, "image": image} if image else made


def cambrian_1375k(rows: Iterable[Row]) -> Iterator[Made]:
    """Yield the rows of the thirteen sources of VILA's list of 1,375 thousand."""
    return cambrian(rows, _CAMBRIAN_1375K)


def cambrian_doc_1275k(rows: Iterable[Row]) -> Iterator[Made]:
    """Yield the rows of the two sources of VILA's list of 1,275 thousand documents."""
    return cambrian(rows, _CAMBRIAN_DOC_1275K)


def idefics2_rows(paths: Sequence[Path]) -> Iterator[Row]:
    """Rows of every subset's folder but those that VILA leaves out."""
    return _of_subsets(paths, _NOT_IDEFICS2)


def idefics2(rows: Iterable[Row]) -> Iterator[Made]:
    """Yield a record or a reject of each row; ``Answer: `` before an answer is left out."""
    for where, row in rows:
        texts, images = row.get("texts"), row.get("images")
        if not isinstance(texts, list) or not all(isinstance(one, dict) for one in texts):
            yield Rejected(where, "no conversation")
            continue
        pairs = [
            (text_of(one, "user"), text_of(one, "assistant").removeprefix("Answer: "))
            for one in texts
        ]
        data = [image_bytes(image) for image in images or ()]
        yield (conversation(where, pairs, data) if all(data) else Rejected(where, "empty image"))


def llava_onevision_rows(paths: Sequence[Path]) -> Iterator[Row]:
    """Rows of every subset's folder but those that VILA leaves out."""
    return _of_subsets(paths, _NOT_ONEVISION)


def llava_onevision(rows: Iterable[Row]) -> Iterator[Made]:
    """Yield a record or a reject of each row; roles are human and gpt and no others."""
    for where, row in rows:
        turns = row.get("conversations")
        if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
            yield Rejected(where, "no conversation")
            continue
        spoken = [(text_of(turn, "from"), text_of(turn, "value")) for turn in turns]
        if {role for role, _ in spoken} - {"human", "gpt"}:
            yield Rejected(where, "another role")
            continue
        pairs = paired([(role, text.replace("<image>", "")) for role, text in spoken], "human")
        if pairs is None:
            yield Rejected(where, "turns do not alternate")
            continue
        image = row.get("image")
        data = image_bytes(image)
        if image and not data:
            yield Rejected(where, "empty image")
        else:
            yield conversation(where, pairs, [data] if data else ())


def _of_subsets(paths: Sequence[Path], skipped: Collection[str]) -> Iterator[Row]:
    for path in paths:
        folders = [path] if not path.is_dir() else _folders(path)
        for folder in folders:
            if folder.name not in skipped:
                for file in list_files([folder]):
                    yield from rows_of(file, f"{folder.name}/{file.name}")


def _folders(path: Path) -> list[Path]:
    """Return the subfolders with lists in them; the folder itself where there are none."""
    inner = sorted(
        each for each in path.iterdir() if each.is_dir() and not each.name.startswith(".")
    )
    return inner or [path]
