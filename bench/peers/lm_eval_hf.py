"""lm-eval's Hugging Face back end on suite files: what it answers, and how fast.

Runs in the peers' environment. The model is loaded once and asked through the back end's own
`loglikelihood`, `loglikelihood_rolling` and `generate_until`, without task loading or metrics: the
least that an evaluation with lm-eval can cost. Prints one JSON object a suite.

    PEERS/bin/python bench/peers/lm_eval_hf.py MODEL_DIR [--every N] [--batch-size B] SUITE.jsonl …
"""

import argparse
import json
import os
import sys
import time

os.environ["HF_HUB_OFFLINE"] = "1"


def main() -> None:
    """Score every suite given."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("suites", nargs="+")
    parser.add_argument("--every", type=int, default=1, help="only each N-th item")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    started = time.perf_counter()
    import lm_eval.models.huggingface as hugging
    from transformers import AutoModelForCausalLM, AutoTokenizer

    imported = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    lm = hugging.HFLM(
        pretrained=model, tokenizer=AutoTokenizer.from_pretrained(options.model),
        backend="causal", device="cpu", batch_size=options.batch_size,
    )  # fmt: skip
    loaded = time.perf_counter()
    for path in options.suites:
        items = read(path)[:: options.every]
        begun = time.perf_counter()
        answers = score(lm, items)
        print(
            json.dumps(
                {
                    "suite": path, "items": len(items), "answers": answers,
                    "seconds": time.perf_counter() - begun,
                    "import_seconds": imported - started, "load_seconds": loaded - imported,
                }
            ),
            flush=True,
        )  # fmt: skip


def read(path):
    """The items of a suite file."""
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def score(lm, items):
    """Option index, text or log-likelihood of every item."""
    from lm_eval.api.instance import Instance

    def ask(method, kind, arguments):
        requests = [
            Instance(request_type=kind, doc={}, arguments=args, idx=0, metadata=("t", i, 1))
            for i, args in enumerate(arguments)
        ]
        return method(requests, disable_tqdm=True)

    if "choices" in items[0]:
        pairs = [(item["context"], choice) for item in items for choice in item["choices"]]
        found = iter(ask(lm.loglikelihood, "loglikelihood", pairs))
        scores = [[next(found)[0] for _ in item["choices"]] for item in items]
        return [row.index(max(row)) for row in scores]
    if "text" in items[0]:
        texts = [(item["text"],) for item in items]
        return list(ask(lm.loglikelihood_rolling, "loglikelihood_rolling", texts))
    # as many tokens as the suite's answers may have
    lengths = [
        len(lm.tok_encode(item["prompt"] + item["target"])) - len(lm.tok_encode(item["prompt"]))
        for item in items
    ]
    arguments = [
        (item["prompt"], {"until": ["\0"], "max_gen_toks": length + 2, "do_sample": False})
        for item, length in zip(items, lengths, strict=True)
    ]
    texts = ask(lm.generate_until, "generate_until", arguments)
    return [text.strip().split("\n")[0].rstrip() for text in texts]


if __name__ == "__main__":
    sys.exit(main())
