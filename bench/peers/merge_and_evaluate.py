"""The loop that Remelt replaces: mergekit to disk, load, lm-eval. Runs in the peers' environment.

    PEERS/bin/python bench/peers/merge_and_evaluate.py CONFIG.yaml OUT SUITE.jsonl … [--repeat N]

One process, everything imported before the clock starts. Prints one JSON object a candidate.
"""

import argparse
import json
import os
import shutil
import time

os.environ["HF_HUB_OFFLINE"] = "1"


def main() -> None:
    """Merge, load and score, as often as asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("config")
    parser.add_argument("out")
    parser.add_argument("suites", nargs="+")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    import torch
    import yaml
    from lm_eval.models.huggingface import HFLM
    from lm_eval_hf import read, score
    from mergekit.config import MergeConfiguration
    from mergekit.merge import MergeOptions, run_merge
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(options.threads)
    with open(options.config, encoding="utf-8") as file:
        config = MergeConfiguration.model_validate(yaml.safe_load(file))
    suites = [read(path) for path in options.suites]
    for number in range(options.repeat + 1):
        shutil.rmtree(options.out, ignore_errors=True)
        begun = time.perf_counter()
        run_merge(config, options.out, MergeOptions(copy_tokenizer=True, quiet=True))
        merged = time.perf_counter()
        lm = HFLM(
            pretrained=AutoModelForCausalLM.from_pretrained(options.out, dtype=torch.float32),
            tokenizer=AutoTokenizer.from_pretrained(options.out),
            backend="causal", device="cpu", batch_size=options.batch_size,
        )  # fmt: skip
        loaded = time.perf_counter()
        # the first round warms imports and caches up on a few items; it does not count
        for items in suites:
            score(lm, items if number else items[:2])
        ended = time.perf_counter()
        if number:
            print(
                json.dumps(
                    {"merge": merged - begun, "load": loaded - merged, "score": ended - loaded}
                ),
                flush=True,
            )


if __name__ == "__main__":
    main()
