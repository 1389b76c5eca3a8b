"""``vita-train data tools``: the public tools under their names.

Exit codes are those of the public guides: 0 clean, 1 problems found, 2 wrong usage.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vita_train.cli.data_convert import (
    CORES,
    RecipeOption,
    Roots,
    Set,
    Workers,
    print_conversion,
    run_concat,
)
from vita_train.cli.tools_pretokenise import pretokenising
from vita_train.storage.whole_file import whole_file

if TYPE_CHECKING:
    from vita_train.data.convert.media import ConvertSettings
    from vita_train.data.media.door import Kind
    from vita_train.data.sources.source import RecordSource
    from vita_train.data.tools.decoded import Fault
    from vita_train.data.tools.media_statistics import Statistics
    from vita_train.recipe.data import AudioSpec

DataPath = Annotated[
    Path, typer.Option("--data_path", "--data-path", help="Record file.", show_default=False)
]
Adapter = Annotated[str, typer.Option(help="Layout of the records; `strict` is the format's own.")]
Output = Annotated[
    Path | None, typer.Option("--output_path", "--output-path", help="Write the result as JSON.")
]
InputDir = Annotated[Path, typer.Option("--input_dir", "--input-dir", show_default=False)]
OutputDir = Annotated[Path, typer.Option("--output_dir", "--output-dir", show_default=False)]

tools = typer.Typer(help="The public tools, under their names.", no_args_is_help=True)
tools.add_typer(pretokenising)


def _source(data_path: Path, roots: Sequence[str] | None, adapter: str) -> RecordSource:
    from vita_train.data.check.targets import open_target

    (source,) = open_target(
        data_path, roots=roots or [], adapter=None if adapter == "strict" else adapter
    )
    return source


def _end(problems: int) -> None:
    if problems:
        raise typer.Exit(1)


def _write(path: Path | None, value: Any) -> None:
    text = json.dumps(value, indent=1, ensure_ascii=True)
    if path is None:
        typer.echo(text)
        return
    with whole_file(path) as stream:
        stream.write(text + "\n")


def _check(source: RecordSource, *, media: bool) -> None:
    from vita_train.cli.checking import as_json
    from vita_train.data.check.run import CheckSettings, check_sources
    from vita_train.data.prepare.ledger import reject_line

    report = check_sources([source], CheckSettings(media=media))
    for dataset, split, reject in report.rejects[:50]:
        typer.echo(reject_line(dataset, split, reject), nl=False)
    counts = as_json(report)
    _write(None, {key: counts[key] for key in ("records", "used", "reasons", "findings")})
    _end(report.ledger.rejected)


@tools.command("check_json")
def check_json(data_path: DataPath, root: Roots = None, adapter: Adapter = "vita") -> None:
    """Check records: fields, roles, empty turns, placeholders against files, sets."""
    _check(_source(data_path, root or ["."], adapter), media=False)


@tools.command("validate_dataset")
def validate_dataset(
    dataset_path: Annotated[
        Path, typer.Option("--dataset_path", "--dataset-path", show_default=False)
    ],
    root: Roots = None,
    check_images: Annotated[bool, typer.Option("--check_images", "--check-images")] = False,
    check_audio: Annotated[bool, typer.Option("--check_audio", "--check-audio")] = False,
    adapter: Adapter = "vita",
) -> None:
    """Check records, and all their media when asked for one kind or both."""
    _check(_source(dataset_path, root or ["."], adapter), media=check_images or check_audio)


def _lost(kind: Kind, source: RecordSource, output: Path, audio: AudioSpec | None = None) -> None:
    from vita_train.data.tools.lost import lost_files

    total, lost = _list(lost_files(source, kind, audio), output)
    typer.echo(f"{lost} of {total} records cannot be used; {output} lists them with the cause")
    _end(lost)


def _list(faults: Iterable[Fault | None], output: Path) -> tuple[int, int]:
    """Write faults as JSON Lines; return how many were looked at, and how many have one."""
    total = faulty = 0
    with whole_file(output) as stream:
        for fault in faults:
            total += 1
            if fault is not None:
                faulty += 1
                stream.write(json.dumps(asdict(fault), ensure_ascii=True) + "\n")
    return total, faulty


@tools.command("check_image_lost")
def check_image_lost(
    data_path: DataPath,
    root: Roots = None,
    output: Annotated[Path, typer.Option(help="List to write.")] = Path("lost_image.jsonl"),
    adapter: Adapter = "vita",
) -> None:
    """Open every image that records name, and list those that cannot be used."""
    _lost("image", _source(data_path, root or ["."], adapter), output)


@tools.command("check_audio_lost")
def check_audio_lost(
    data_path: DataPath,
    root: Roots = None,
    output: Annotated[Path, typer.Option(help="List to write.")] = Path("lost_audio.jsonl"),
    min_seconds: Annotated[float, typer.Option(min=0)] = 0.5,
    max_seconds: Annotated[float, typer.Option(min=0.1)] = 30.0,
    adapter: Adapter = "vita",
) -> None:
    """Decode every recording that records name, and list those that cannot be used."""
    from vita_train.recipe.data import AudioSpec

    limits = AudioSpec(min_seconds=min(min_seconds, max_seconds), max_seconds=max_seconds)
    _lost("audio", _source(data_path, root or ["."], adapter), output, limits)


@tools.command("check_video_lost")
def check_video_lost(
    data_path: DataPath,
    root: Roots = None,
    output: Annotated[Path, typer.Option(help="List to write.")] = Path("lost_video.jsonl"),
    adapter: Adapter = "vita",
) -> None:
    """Decode every video that records name, and list those that cannot be used."""
    _lost("video", _source(data_path, root or ["."], adapter), output)


@tools.command("check_image_space_ratio")
def check_image_space_ratio(
    data_path: DataPath,
    root: Roots = None,
    output: Annotated[Path, typer.Option(help="List to write.")] = Path("long_image.jsonl"),
    most: Annotated[
        float, typer.Option(min=1, help="Times that one side may be as long as the other.")
    ] = 12.0,
    adapter: Adapter = "vita",
) -> None:
    """List images that are much longer than wide, or wider than long, and those that cannot be
    read."""
    from vita_train.data.tools.media_statistics import long_images

    total, long = _list(long_images(_source(data_path, root or ["."], adapter), most), output)
    typer.echo(f"{long} of {total} images; {output} lists them with the cause")
    _end(long)


@tools.command("rm_lost")
def rm_lost(
    data_path: DataPath,
    lost: Annotated[Path, typer.Option(help="List of lost records.", show_default=False)],
    output: Annotated[Path, typer.Option(help="Record file to write.", show_default=False)],
) -> None:
    """Write a record file without lost records; the input stays as it is."""
    from vita_train.data.tools.lost import remove_rows, rows_of

    kept, dropped = remove_rows(data_path, rows_of(lost), output)
    typer.echo(f"{output}: {kept} records, {dropped} left out")


@tools.command("statistics_data_num")
def statistics_data_num(
    data_path: DataPath, output_path: Output = None, adapter: Adapter = "vita"
) -> None:
    """Count records, rounds, questions by kind, files and negatives."""
    from vita_train.data.tools.statistics import count_records

    _write(output_path, count_records(_source(data_path, ["."], adapter).rows()))


@tools.command("statistics_image_num")
def statistics_image_num(
    data_path: DataPath, output_path: Output = None, adapter: Adapter = "vita"
) -> None:
    """Count records by their number of images."""
    from vita_train.data.tools.media_statistics import images_per_record

    _write(output_path, images_per_record(_source(data_path, ["."], adapter).rows()))


def _statistics(found: Statistics, output_path: Path | None) -> None:
    _write(output_path, asdict(found))
    _end(len(found.faults))


@tools.command("statistics_audio_duration")
def statistics_audio_duration(
    data_path: DataPath, root: Roots = None, output_path: Output = None, adapter: Adapter = "vita"
) -> None:
    """Count recordings by their seconds."""
    from vita_train.data.tools.media_statistics import durations

    _statistics(durations(_source(data_path, root or ["."], adapter)), output_path)


@tools.command("statistics_resolution")
def statistics_resolution(
    data_path: DataPath,
    root: Roots = None,
    videos: Annotated[bool, typer.Option("--videos", help="Videos instead of images.")] = False,
    output_path: Output = None,
    adapter: Adapter = "vita",
) -> None:
    """Count images by the pixels of their shorter side."""
    from vita_train.data.tools.media_statistics import resolutions

    source = _source(data_path, root or ["."], adapter)
    _statistics(resolutions(source, "video" if videos else "image"), output_path)


@tools.command("statistics_video_filesize")
def statistics_video_filesize(
    data_path: DataPath, root: Roots = None, output_path: Output = None, adapter: Adapter = "vita"
) -> None:
    """Count videos by the megabytes of their files."""
    from vita_train.data.tools.media_statistics import video_sizes

    _statistics(video_sizes(_source(data_path, root or ["."], adapter)), output_path)


@tools.command("statistics_token_num")
def statistics_token_num(
    data_path: DataPath,
    recipe: RecipeOption = "vita-1.5-7b",
    settings: Set = None,
    root: Roots = None,
    output_path: Output = None,
    adapter: Adapter = "vita",
) -> None:
    """Count the tokens of each record, media included, and list long ones."""
    from vita_train.data.tools.statistics import count_tokens
    from vita_train.recipe.load import load_recipe

    source = _source(data_path, root or ["."], adapter)
    _write(output_path, count_tokens(source, load_recipe(recipe, settings or [])))


@tools.command("concat_data_patch")
def concat_data_patch(
    output_dir: OutputDir,
    input_dirs: Annotated[
        list[Path],
        typer.Option(
            "--input_dirs", "--input-dirs", help="Folders of record files.", show_default=False
        ),
    ],
    more_dirs: Annotated[list[Path] | None, typer.Argument(metavar="...", hidden=True)] = None,
    max_tokens: Annotated[int, typer.Option("--max_tokens", "--max-tokens", min=1)] = 6000,
    same_set: Annotated[
        bool, typer.Option("--same_set", "--same-set", help="Join only records of the same sets.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    recipe: RecipeOption = "vita-1.5-7b",
    settings: Set = None,
    root: Roots = None,
    adapter: Adapter = "strict",
    workers: Workers = CORES,
) -> None:
    """Join the short records of folders into conversations up to a number of tokens."""
    from vita_train.data.convert.concat import ConcatSettings, record_files

    folders = [*input_dirs, *(more_dirs or [])]
    files = record_files(folders)
    name = files[0].name.split(".")[0] if len(files) == 1 else "all"
    report = run_concat(
        files,
        output_dir / f"{name}-QwenPatchConcat{max_tokens}.json",
        ConcatSettings(max_tokens, not same_set, seed),
        recipe=(recipe, settings or []),
        roots=root or ["."],
        adapter=None if adapter == "strict" else adapter,
        workers=workers,
    )
    _end(report.reasons.total())


@tools.command("preprocess_images")
def preprocess_images(
    input_dir: InputDir,
    output_dir: OutputDir,
    size: Annotated[int, typer.Option(help="Pixels of the shorter side.", min=1)] = 448,
    enlarge: Annotated[bool, typer.Option("--enlarge", help="Enlarge smaller images.")] = False,
    workers: Workers = CORES,
) -> None:
    """Write images upright, in RGB, of a size; originals stay as they are."""
    from vita_train.data.convert.media import ConvertSettings
    from vita_train.data.media.encode import ImageOutput, Output

    image = ImageOutput(size, "shortest", format="keep", enlarge=enlarge)
    _convert(input_dir, output_dir, ConvertSettings(Output(image=image), ("image",)), workers)


@tools.command("preprocess_audio")
def preprocess_audio(
    input_dir: InputDir,
    output_dir: OutputDir,
    sample_rate: Annotated[
        int, typer.Option("--sample_rate", "--sample-rate", min=1000, max=768_000)
    ] = 16000,
    workers: Workers = CORES,
) -> None:
    """Write recordings as mono WAV of a rate; originals stay as they are."""
    from vita_train.data.convert.media import ConvertSettings
    from vita_train.data.media.encode import AudioOutput, Output

    audio = AudioOutput(sample_rate)
    _convert(input_dir, output_dir, ConvertSettings(Output(audio=audio), ("audio",)), workers)


def _convert(folder: Path, out: Path, settings: ConvertSettings, workers: int) -> None:
    from vita_train.data.convert.media import convert_folder

    report = convert_folder(folder, out, settings, workers=workers)
    print_conversion(report)
    _end(report.reasons.total())


@tools.command("merge_tars")
def merge_tars(
    names: Annotated[
        list[str] | None, typer.Argument(help="Archives, without endings; none takes all.")
    ] = None,
    folder: Annotated[Path, typer.Option(help="Where the parts lie.", exists=True)] = Path(),
) -> None:
    """Join the parts of archives, and remove them once the whole is read back."""
    from vita_train.data.tools.archives import join_parts

    for done in join_parts(folder, names or ()):
        typer.echo(f"{done.name}: {done.parts} parts, {done.files} files, sha256 {done.sha256}")


@tools.command("extract")
def extract(
    folder: Annotated[Path, typer.Option(help="Where the archives lie.", exists=True)] = Path(),
    keep: Annotated[bool, typer.Option("--keep", help="Leave unpacked archives.")] = False,
) -> None:
    """Unpack every archive of a folder into it; one is removed once all of it is unpacked."""
    from vita_train.data.tools.archives import extract_all

    results = extract_all(folder, keep=keep)
    for result in results:
        typer.echo(result.fault or f"{result.name}: {result.files} files")
    _end(sum(bool(result.fault) for result in results))
