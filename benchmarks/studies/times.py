"""``python -m benchmarks.studies.times LOG``: what a profile predicts beside what the runner of `bench` measures.

Twelve plans of a model, from one that is cut evenly to ones whose layers all differ, are built with any weights. They
take turns with the probes of a profile, so that another load of the machine is no error of the prediction. LOG grows by
a line for each repetition; the same command goes on from there.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import stats

from benchmarks import page
from edge_transact import costs
from edge_transact.artifacts.outputs import scratch_directory
from edge_transact.benchmarking.model import open_models
from edge_transact.benchmarking.records.log import Log
from edge_transact.cli.logs import show_logs
from edge_transact.costs.profile import Profile
from edge_transact.profiling.fit import Timing, fit, relative
from edge_transact.profiling.options import ProfileOptions
from edge_transact.profiling.probes import Maker, Probe, depth_of, probes_of
from edge_transact.profiling.run import in_common, measure, profile_of, shape_of_model, turns_of
from edge_transact.quantization import get_quantization
from edge_transact.widths import LayerWidths, WidthPlan

CONTEXTS = (256, 2048)
WITHIN, ENOUGH, RANK = 0.05, 10, 0.97
"""What is aimed at: so many plans are within this share, and ranks correlate so well."""


def plans_of(source: WidthPlan) -> list[Probe]:
    """The plans, the same in every run."""
    draw, full = random.Random(60), source.widest
    mlp, dim, q = full.intermediate_size, full.v_head_dim, full.q_per_kv

    def layer(
        mlps: tuple[float, float] = (1, 1), values: tuple[int, int] = (dim, dim), heads: int = 0, pairs: int = dim
    ) -> LayerWidths:
        kept = draw.randint(heads or full.num_key_value_heads, full.num_key_value_heads)
        size = max(32, round(mlp * draw.uniform(*mlps) / 32) * 32)
        return LayerWidths(
            kept * q, kept, draw.randrange(pairs, dim + 1, 8), draw.randrange(values[0], values[1] + 1, 8), size
        )

    def model(name: str, **choices: object) -> Probe:
        return Probe(name, source.with_layers([layer(**choices) for _ in source.layers]))

    def without(name: str, share: float, **choices: object) -> Probe:
        layers = [layer(**choices) for _ in source.layers]
        for index in draw.sample(range(1, len(layers)), round(share * len(layers))):
            gone = (
                {"intermediate_size": 0}
                if draw.random() < 0.3
                else {"num_attention_heads": 0, "num_key_value_heads": 0}
            )
            layers[index] = replace(layers[index], **gone)
        return Probe(name, source.with_layers(layers))

    return [
        Probe("dense", source),
        Probe(
            "MLPs of half their size",
            source.with_layers([replace(full, intermediate_size=mlp // 64 * 32)] * len(source.layers)),
        ),
        model("MLPs of 30 % to all", mlps=(0.3, 1)),
        model("MLPs of 10 % to 60 %", mlps=(0.1, 0.6)),
        model("values of 32 to 64", values=(dim // 2, dim)),
        model("values of 32 to 48, MLPs of 40 % to 90 %", values=(dim // 2, 3 * dim // 4), mlps=(0.4, 0.9)),
        model("all head dims of 32 to 64", values=(dim // 2, dim), pairs=dim // 2),
        model("KV heads of 1 to all", heads=1),
        model("KV heads of 1 to all, MLPs of 30 % to all", heads=1, mlps=(0.3, 1)),
        model("everything", heads=1, mlps=(0.3, 1), values=(dim // 2, dim), pairs=dim // 2),
        without("a third of the layers lack a sublayer", 1 / 3),
        without("a fifth lack a sublayer, values and MLPs differ", 1 / 5, mlps=(0.4, 1), values=(dim // 2, dim)),
    ]


def table(profile: Profile, timings: list[Timing], names: dict[WidthPlan, str]) -> str:
    """Both, with their ratio, and how many are close and well ordered."""
    sections = []
    for phase, tokens in (("decode", 256), ("decode", 2048), ("prefill", 256), ("prefill", 2048)):
        own = [each for each in timings if each.phase == phase and abs(max(each.context, each.tokens) - tokens) < 16]
        measured = [float(np.median(list(each.rounds.values()))) for each in own]
        predicted = [
            profile.decode_s(each.plan, each.context)
            if phase == "decode"
            else profile.prefill_s(each.plan, each.tokens)
            for each in own
        ]
        ratios = np.array(predicted) / np.array(measured)
        close = int((abs(ratios - 1) <= WITHIN).sum())
        rank = stats.spearmanr(predicted, measured).statistic

        rows = [
            [
                names[each.plan],
                f"{1e3 * a:.2f}",
                f"{1e3 * b:.2f} ±{relative(list(each.rounds.values())):.1%}",
                f"{a / b:.3f}",
            ]
            for each, a, b in zip(own, predicted, measured, strict=True)
        ]
        sections.append(
            f"{phase} at {tokens} tokens: {close} of {len(own)} within {WITHIN:.0%}, rank correlation {rank:.3f}\n"
        )
        sections.append(page.table(["plan", "predicted, ms", "measured, ms", "ratio"], rows) + "\n")
    return "\n".join(sections)


def main() -> None:
    """Entry point of ``python -m benchmarks.studies.times``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("log", type=Path)
    parser.add_argument("--model", default="demo:smollm2")
    parser.add_argument("--quant", default="q4f32_1")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()
    show_logs()
    source, config, _ = shape_of_model(arguments.model)
    quantization, chunk = get_quantization(arguments.quant), costs.HOST_PREFILL_CHUNK
    probes, plans = probes_of(source, depth_of(source, quantization)), plans_of(source)
    maker = Maker(config, quantization, "host", {"context_window_size": CONTEXTS[-1], "prefill_chunk_size": chunk})
    options = ProfileOptions(repetitions=arguments.rounds, until=0.99, threads=arguments.threads)
    with scratch_directory() as scratch:
        paths = [scratch / f"{index:02}" for index in range(len(probes) + len(plans))]
        for probe, path in zip([*probes, *plans], paths, strict=True):
            maker.make(probe.plan, path)
        models = open_models(paths, [])
        both = [*probes, *(replace(plan, is_long=True) for plan in plans)]
        log = Log(arguments.log, in_common(options))
        try:
            timings, _ = measure(turns_of(both, models, chunk, CONTEXTS), options, log)
        finally:
            log.close()
    names = {plan.plan: plan.name for plan in plans}
    found = fit([each for each in timings if each.plan not in names or each.plan == probes[0].plan], chunk, CONTEXTS)
    made = profile_of(found, source, quantization, chunk, CONTEXTS, {"name": "host"}, "host")
    print(table(made, [each for each in timings if each.plan in names], names))


if __name__ == "__main__":
    main()
