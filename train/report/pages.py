"""The pages: sections of text, tables and figures, put together as one self-contained HTML file."""

import base64
import html
import io
import string
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

from train import data, logs
from train.classifier import Classifier, from_run
from train.config import flatten, to_dict
from train.errors import UserError
from train.evaluate import statistics
from train.evaluate.answers import Answers
from train.evaluate.evaluation import answer
from train.report import branches, explain, figures
from train.run import Run

PAGE = string.Template((Path(__file__).parent / "report.html").read_text())


def figure(fig) -> str:
    """A matplotlib figure as a data URI."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=144, bbox_inches="tight")
    plt.close(fig)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def section(title: str, text: str, fig, alt: str) -> str:
    return f'<h2>{html.escape(title)}</h2>\n<p>{html.escape(text)}</p>\n<img src="{figure(fig)}" alt="{html.escape(alt)}">\n'


def tabular(title: str, text: str, head: list[str], rows: list[list[Any]]) -> str:
    """A section that is a table."""
    heads = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return (
        f"<h2>{html.escape(title)}</h2>\n<p>{html.escape(text)}</p>\n"
        f'<div class="wide" tabindex="0" role="region" aria-label="{html.escape(title)}">'
        f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>\n"
    )


def see(seen: Classifier, split: data.Split, answers: Answers, count: int) -> list[str]:
    """The sections about what the network looks at, over `count` examples, always the same ones."""
    probabilities, labels, places = (
        np.exp(answers.log_probabilities),
        answers.labels,
        answers.examples,
    )
    names: tuple[str, ...] = answers.classes
    sections: list[str] = []
    rows = np.random.RandomState(0).permutation(len(places))[:count]
    images = data.read(split, places[rows], seen.data)
    batches = [
        seen.preprocess(images[start : start + 100])
        for start in range(0, len(images) // 100 * 100, 100)
    ]
    batches = batches or [seen.preprocess(images)]
    answered = probabilities.argmax(-1)
    wrong, right = (
        np.flatnonzero((answered[rows] == labels[rows]) == answer) for answer in (False, True)
    )
    few = np.concatenate([wrong[:4], right[: 8 - len(wrong[:4])]])
    sections.append(section(
        "Where it looks", "Above: what the network answered. Grad-CAM: where the last map speaks for that. Occlusion: how far "
        "the answer's probability falls when a grey square covers the place; the number is the largest fall.",
        figures.plot_attention(seen, images[few], probabilities[rows[few]], names),
        "Images with heat maps of Grad-CAM and of occlusion",
    ))  # fmt: skip
    one = seen.preprocess(images[few[-1:]])
    kept = [
        n
        for n, s in explain.stages(seen.model, seen.variables, one).items()
        if len(s) == 4 and min(s[1:3]) > 1
    ]
    for stage in dict.fromkeys((kept[0], kept[len(kept) // 2])):
        maps = explain.feature_maps(seen.model, seen.variables, one, stage)[0]
        sections.append(section(
            f"Feature maps of {stage}", f"{maps.shape[-1]} channels of {maps.shape[0]}x{maps.shape[1]}; those that vary most.",
            figures.plot_maps(maps, images[few[-1]], stage), f"Feature maps of the stage {stage}",
        ))  # fmt: skip
    features = explain.features(seen.model, seen.variables, batches)
    sections.append(section(
        "Nearest neighbours", "By the features that the classifier reads: the angle between them.",
        figures.plot_neighbours(
            images[: len(features)], features, [names[i] for i in labels[rows]], [*range(min(5, len(features)))]
        ),
        "Images in the first column and the most similar ones to their right, with their classes",
    ))  # fmt: skip
    found = explain.activity(seen.model, seen.variables, batches)
    sections.append(tabular(
        "Units", f"Channels of each stage over {len(features)} images; a dead one is never above zero.",
        ["stage", "units", "dead", "constant", "zeros", "mean", "deviation"],
        [[n, a.units, a.dead, a.constant, f"{a.zeros:.1%}", f"{a.mean:.3g}", f"{a.std:.3g}"] for n, a in found.items()],
    ))  # fmt: skip
    shares = branches.contributions(seen.model, seen.variables, batches[0][:32])
    if shares:
        worst = max(shares, key=lambda each: each.fall)
        sections.append(section(
            "Branches", f"How far the probability of the network's own answers falls when the output of one branch is zero, "
            f"over {len(batches[0][:32])} images. Most for {worst.branch.block} {worst.branch.name}: {worst.fall:.0%}, and "
            f"{worst.changed:.0%} of the answers change.",
            figures.plot_branches(shares), "Bars: what is lost without each branch of each block",
        ))  # fmt: skip
    fields = explain.receptive_fields(seen.model, images.shape[1:])
    sections.append(section(
        "Receptive fields", "What one cell in the middle of a layer's map sees of the image, in pixels.",
        figures.plot_fields(fields, images[few[-1]]), "Squares on an image: the receptive fields of some layers",
    ))  # fmt: skip
    return sections


def write_report(workdir: str, step: str = "latest", images: int = 500) -> dict[str, Any]:
    """Evaluates a checkpoint on the run's evaluation split and writes `report.html`."""
    run = Run(workdir)
    split = run.load_split()
    seen = from_run(run, step)
    answers = answer([seen], split)
    probabilities, labels, places = (
        np.exp(answers.log_probabilities),
        answers.labels,
        answers.examples,
    )
    names = answers.classes
    result = statistics.summarize(answers.log_probabilities, labels, names)
    matrix = statistics.confusion_matrix(labels, probabilities.argmax(-1), len(names))
    right = int(matrix.trace())
    rows = logs.read(run.folder)

    sections = []
    if rows:
        sections.append(section(
            "Training", "What metrics.jsonl holds; training values are means since the row before.",
            figures.plot_curves({"": rows}), "Curves of loss, error and learning rate over the training steps",
        ))  # fmt: skip
    sections.append(section(
        "Confusion matrix", "Counts on the evaluation split; the colour shows mistakes only.",
        figures.plot_confusion(matrix, names),
        f"Confusion matrix: {right} of {len(labels)} examples on the diagonal",
    ))  # fmt: skip
    worst = sorted(
        (row for row in result["classes"] if row["examples"]), key=lambda row: row["top1"]
    )[:20]
    sections.append(tabular(
        "Classes", f"The {len(worst)} with the lowest accuracy, and Wilson's interval of 95 %.",
        ["class", "examples", "right", "top-1", "interval"],
        [[row["name"], row["examples"], row["right"], f"{row['top1']:.1%}", _interval(row["right"], row["examples"])]
         for row in worst],
    ))  # fmt: skip
    if "reliability" in result:
        text = f"Expected calibration error {result['ece']:.2%}."
        if "temperature" in result:
            text += (
                f" A temperature of {result['temperature']:.2f}, fitted on one half, changes that of the other half from "
                f"{result['ece_held_out']:.2%} to {result['ece_held_out_with_temperature']:.2%}."
            )
        sections.append(section(
            "Calibration", text, figures.plot_reliability(result["reliability"]),
            "Accuracy against confidence, and how many examples there are of each confidence",
        ))  # fmt: skip
    mistakes = figures.plot_mistakes(
        probabilities, labels, names, lambda rows: data.read(split, places[rows], seen.data)
    )
    if mistakes:
        sections.append(section(
            "Most confident mistakes", "Predicted class with its probability, above the true one.", mistakes,
            "The misclassified images of which the network was surest",
        ))  # fmt: skip
    kernel = figures.first_kernel(seen.variables["params"])
    if kernel is not None:
        size = f"{kernel.shape[-1]} filters of {kernel.shape[0]}x{kernel.shape[1]}"
        sections.append(
            section(
                "First layer",
                f"{size}, each on its own scale; grey is zero.",
                figures.plot_filters(kernel),
                size,
            )
        )
    if images:
        sections += see(seen, split, answers, images)
    options = [[key, value] for key, value in flatten(to_dict(run.config)).items()]
    sections.append(tabular("Config", "Every option of the run.", ["option", "value"], options))

    low, high = result["top1_interval"]
    headline = {
        "top-1 accuracy": f"{right / len(labels):.2%}",
        "95 % interval": f"{low:.1%} – {high:.1%}",
        "mistakes": f"{len(labels) - right:,} of {len(labels):,}",
        "step": f"{int(seen.label):,}",
        "classes": f"{len(names):,}",
    }
    subtitle = (
        f"Checkpoint of step {seen.label}, evaluated on the {run.config.data.eval_split} split."
    )
    path = run.folder / "report.html"
    path.write_text(
        page(f"{run.config.model.name} on {run.config.data.source}", subtitle, headline, sections)
    )
    return {
        "report": str(path),
        "step": int(seen.label),
        "top1": right / len(labels),
        "examples": len(labels),
    }


def _interval(right: int, count: int) -> str:
    low, high = statistics.wilson(right, count)
    return f"{low:.0%} – {high:.0%}"


def page(title: str, subtitle: str, headline: dict[str, str], sections: list[str]) -> str:
    numbers = "".join(f"<div><b>{html.escape(value)}</b><span>{html.escape(name)}</span></div>"
                      for name, value in headline.items())  # fmt: skip
    return PAGE.substitute(
        title=html.escape(title),
        subtitle=html.escape(subtitle),
        numbers=numbers,
        sections="".join(sections),
    )


def compare(workdirs: list[str], out: str) -> dict[str, Any]:
    """Writes a page of several runs: their curves in one figure, their best and last numbers, what differs in their configs."""
    runs = {workdir: Run(workdir) for workdir in dict.fromkeys(workdirs)}
    if len(runs) < 2:
        raise UserError("--compare needs two run folders or more")
    short = [run.folder.name for run in runs.values()]
    names = short if len(set(short)) == len(short) else list(runs)
    rows = dict(zip(names, (logs.read(run.folder) for run in runs.values())))
    table = []
    for name, run in zip(names, runs.values()):
        tested = [
            row
            for row in rows[name]
            if row["split"] == run.config.data.eval_split and "top1" in row
        ]
        best = max(tested, key=lambda row: row["top1"], default=None)
        last = tested[-1] if tested else None
        table.append(
            [name, run.config.model.name, run.config.data.source]
            + [f"{row['top1']:.2%} at {row['step']:,}" if row else "–" for row in (best, last)]
            + [f"{last['loss']:.4g}" if last else "–"]
        )
    options = [flatten(to_dict(run.config)) for run in runs.values()]
    keys = dict.fromkeys(key for each in options for key in each)
    different = [[key, *(each.get(key, "–") for each in options)] for key in keys
                 if len({str(each.get(key)) for each in options}) > 1]  # fmt: skip
    sections = [
        section("Training", "Each run has a colour, each split a kind of line.", figures.plot_curves(rows),
                "Curves of loss, error and learning rate of all runs over the training steps"),
        tabular("Results", "On each run's own evaluation split.",
                ["run", "model", "data", "best top-1", "last top-1", "last loss"], table),
        tabular("Differences", "Options that are not the same in all runs.", ["option", *names], different),
    ]  # fmt: skip
    headline = {"runs": str(len(runs)), "different options": str(len(different))}
    Path(out).write_text(
        page(
            " and ".join(names) if len(names) < 4 else f"{len(names)} runs",
            "Compared.",
            headline,
            sections,
        )
    )
    return {"report": out, "runs": list(runs), "different": [row[0] for row in different]}
